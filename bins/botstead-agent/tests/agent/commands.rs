//! Commands whose output goes to their caller.

use super::workspace::{Workspace, command, kept, status, variable, wait_until};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::run_input::{Input, Start};
use botstead_bridge::proto::{HealthRequest, RemoveProcessRequest, SignalRequest};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

#[tokio::test]
async fn gives_both_outputs_and_every_kind_of_end() {
    let workspace = Workspace::start(&[]);
    let seen = workspace
        .run(command(&["sh", "-c", "echo out; echo err >&2; exit 7"]))
        .await;
    assert_eq!(
        (seen.text().as_str(), &*seen.stderr, seen.code()),
        ("out\n", &b"err\n"[..], 7)
    );
    assert!(seen.pid > 1 && !seen.exit.unwrap().truncated);
    let code = async |args: &[&str]| {
        let exit = workspace.run(command(args)).await.exit.unwrap();
        assert_eq!(
            exit.message.is_empty(),
            !matches!(exit.code, 126 | 127),
            "{exit:?}"
        );
        exit.code
    };
    assert_eq!(code(&["true"]).await, 0);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]).await, 137);
    assert_eq!(code(&["sh", "-c", "kill -SEGV $$"]).await, 139);
    assert_eq!(code(&["no-such-program"]).await, 127);
    assert_eq!(code(&["/no/such/program"]).await, 127);
    assert_eq!(code(&["/etc/passwd"]).await, 126);
    assert_eq!(code(&["/etc"]).await, 126);
    workspace
        .shell("printf '#!/no/such/shell\\n' > /tmp/x; chmod +x /tmp/x")
        .await;
    assert_eq!(code(&["/tmp/x"]).await, 127);
    let health = workspace.client().agent().health(HealthRequest {}).await;
    assert_eq!(health.unwrap().into_inner().running, 0);
}

#[tokio::test]
async fn what_cannot_begin_is_told_as_a_kind() {
    let workspace = Workspace::start(&[]);
    let kind = async |start: Start| {
        let failure = workspace.call(Input::Start(start)).await.err().unwrap();
        (failure.kind, String::from_utf8(failure.path).unwrap())
    };
    let with_cwd = |cwd: &str| Start {
        cwd: Bytes::copy_from_slice(cwd.as_bytes()),
        ..command(&["pwd"])
    };
    let nothing = String::new();
    assert_eq!(
        kind(with_cwd("/no/where")).await,
        (FailureKind::NotFound, "/no/where".into())
    );
    assert_eq!(
        kind(with_cwd("/etc/passwd")).await.0,
        FailureKind::NotADirectory
    );
    assert_eq!(kind(with_cwd("data")).await.0, FailureKind::Invalid);
    workspace.shell("mkdir -m 700 /tmp/secret").await;
    let denied = Start {
        user: "bot".into(),
        ..with_cwd("/tmp/secret")
    };
    assert_eq!(
        kind(denied).await,
        (FailureKind::PermissionDenied, "/tmp/secret".into())
    );
    let nobody = Start {
        user: "somebody".into(),
        ..command(&["id"])
    };
    assert_eq!(
        kind(nobody).await,
        (FailureKind::NoSuchUser, nothing.clone())
    );
    assert_eq!(
        kind(command(&[])).await,
        (FailureKind::Invalid, nothing.clone())
    );
    assert_eq!(kind(command(&["a\0b"])).await.0, FailureKind::Invalid);
    let bad = Start {
        env: vec![variable("A=B", "")],
        ..command(&["env"])
    };
    assert_eq!(kind(bad).await.0, FailureKind::Invalid);
    let running = workspace.begin(command(&["sleep", "60"])).await;
    let mut same = command(&["true"]);
    same.id = format!(
        "c{}",
        same.id.trim_start_matches('c').parse::<u32>().unwrap() - 1
    );
    assert_eq!(kind(same).await.0, FailureKind::AlreadyExists);
    drop(running);
    let failure = workspace.call(Input::CloseStdin(true)).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::Invalid);
    // Everything is told before the folder is missing.
    workspace
        .shell("rmdir /data 2>/dev/null || mv /data /gone")
        .await;
    assert_eq!(
        kind(command(&["pwd"])).await,
        (FailureKind::NotFound, "/data".into())
    );
}

/// What `/proc` says of a child, and what it says of itself.
#[tokio::test]
async fn a_command_gets_what_a_command_should() {
    let workspace = Workspace::start(&["--user", "bot", "--toolkit", "/kit"]);
    let score = format!("/proc/{}/oom_score_adj", workspace.agent);
    // A machine may not let its root lower one, and then another one has to do.
    if std::fs::write(&score, "-900").is_err() {
        std::fs::write(&score, "300").unwrap();
    }
    let call = workspace.begin(command(&["sleep", "60"])).await;
    let found = workspace.orphans();
    let (pid, _) = *found.first().unwrap();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(read("oom_score_adj").trim(), "0");
    assert_eq!(status(pid, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(status(pid, "Gid"), "1000\t1000\t1000\t1000");
    assert_eq!(status(pid, "Groups"), "10 29 1000");
    assert_eq!(status(pid, "Umask"), "0022");
    assert_eq!(status(pid, "CapEff"), "0000000000000000");
    for signals in ["SigBlk", "SigIgn", "SigCgt"] {
        let found = u64::from_str_radix(&status(pid, signals), 16).unwrap();
        // Signals 32 and 33 are the C library's own; this machine may have them ignored.
        assert_eq!(found & !(0b11 << 31), 0, "{signals}: {found:x}");
    }
    let own = status(pid, "NSpid");
    let inside = own.split_whitespace().last().unwrap();
    assert_eq!(
        status(pid, "NSsid").split_whitespace().last().unwrap(),
        inside
    );
    assert_eq!(call.seen.pid, 0, "nothing was read yet");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    assert_eq!(descriptors, 3);
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert!(cwd.ends_with("data"), "{cwd:?}");
    let limit = |pid: i32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let here = limit(std::process::id().try_into().unwrap());
    assert_eq!(limit(pid), here);
    drop(call);

    let start = Start {
        env: vec![variable("LANG", "C"), variable("XDG_CACHE_HOME", "/tmp/c")],
        ..command(&["env"])
    };
    let text = workspace.run(start).await.text();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let expected = [
        "FROM_IMAGE=yes",
        "HOME=/data",
        "LANG=C",
        "LOGNAME=bot",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/kit/bin",
        "SHELL=/bin/sh",
        "USER=bot",
        "XDG_CACHE_HOME=/tmp/c",
        "XDG_CONFIG_HOME=/data/.config",
        "XDG_DATA_HOME=/data/.local/share",
        "XDG_STATE_HOME=/data/.local/state",
    ];
    assert_eq!(lines, expected);
    // Its pipes are its own: they can be opened by name.
    assert_eq!(
        workspace.shell("echo by name > /proc/self/fd/1").await,
        "by name\n"
    );
    let as_root = Start {
        user: "root".into(),
        ..command(&["id"])
    };
    let text = workspace.run(as_root).await.text();
    assert_eq!(text, "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n");
    let group = Start {
        user: "nobody:audio".into(),
        ..command(&["id"])
    };
    let text = workspace.run(group).await.text();
    assert_eq!(text, "uid=65534(nobody) gid=29(audio) groups=29(audio)\n");
}

#[tokio::test]
async fn a_hundred_megabytes_go_in_and_out_whole() {
    const SIZE: usize = 100 << 20;
    let workspace = Workspace::start(&[]);
    let mut call = workspace.begin(command(&["cat"])).await;
    let input = call.input.clone();
    let sender = tokio::spawn(async move {
        let (mut hash, mut block) = (Sha256::new(), vec![0_u8; 64 << 10]);
        for number in 0..SIZE / block.len() {
            for (index, byte) in block.iter_mut().enumerate() {
                *byte = (index * 31 + number) as u8;
            }
            hash.update(&block);
            let data = Input::Stdin(Bytes::copy_from_slice(&block));
            let message = botstead_bridge::proto::RunInput { input: Some(data) };
            input.send(message).await.unwrap();
        }
        let end = Input::CloseStdin(true);
        let message = botstead_bridge::proto::RunInput { input: Some(end) };
        input.send(message).await.unwrap();
        hash.finalize()
    });
    let (mut hash, mut count) = (Sha256::new(), 0);
    while call.next().await {
        hash.update(&call.seen.stdout);
        count += call.seen.stdout.len();
        call.seen.stdout.clear();
    }
    assert_eq!(count, SIZE);
    assert_eq!(hash.finalize(), sender.await.unwrap());
    assert_eq!(call.seen.code(), 0);
}

#[tokio::test]
async fn input_ends_when_it_is_closed_and_not_before() {
    let workspace = Workspace::start(&[]);
    let mut call = workspace
        .begin(command(&["sh", "-c", "cat; echo end"]))
        .await;
    call.write("one ").await;
    call.until_text("one ").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(call.seen.exit.is_none());
    call.write("two ").await;
    call.send(Input::CloseStdin(true)).await;
    assert_eq!(call.finish().await.text(), "one two end\n");
    // The end of the caller's stream is not the end of the input,
    let call = workspace
        .begin(command(&["sh", "-c", "sleep 0.2; echo still there"]))
        .await;
    let super::workspace::Call {
        input,
        output,
        seen,
    } = call;
    drop(input);
    let (unused, _messages) = tokio::sync::mpsc::channel(1);
    let call = super::workspace::Call {
        input: unused,
        output,
        seen,
    };
    assert_eq!(call.finish().await.text(), "still there\n");
    // and one that has none has none.
    let start = Start {
        no_stdin: true,
        ..command(&["cat"])
    };
    assert_eq!(workspace.run(start).await.code(), 0);
    // A program that does not read its input ends all the same.
    let call = workspace.begin(command(&["sleep", "0.1"])).await;
    for _ in 0..20 {
        let block = Bytes::from(vec![0; 64 << 10]);
        let data = botstead_bridge::proto::RunInput {
            input: Some(Input::Stdin(block)),
        };
        let _ = tokio::time::timeout(Duration::from_millis(20), call.input.send(data)).await;
    }
    assert_eq!(call.finish().await.code(), 0);
}

#[tokio::test]
async fn signals_reach_the_group_even_when_input_waits() {
    let workspace = Workspace::start(&[]);
    let script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.02; done";
    let mut call = workspace.begin(command(&["sh", "-c", script])).await;
    call.until_text("ready").await;
    // The program reads nothing: its pipe is full.
    for _ in 0..3 {
        call.send(Input::Stdin(Bytes::from(vec![0; 64 << 10])))
            .await;
    }
    call.send(Input::Signal(10)).await;
    let seen = call.finish().await;
    assert_eq!((seen.code(), seen.text().as_str()), (5, "ready\ngot it\n"));
    // By a call of its own.
    let start = command(&["sleep", "60"]);
    let id = start.id.clone();
    let call = workspace.begin(start).await;
    let signal = async |signal| {
        let request = SignalRequest {
            id: id.clone(),
            signal,
        };
        let answer = workspace.client().processes().signal(request).await;
        answer
            .map(|_| ())
            .map_err(|status| super::workspace::failure(status).kind)
    };
    assert_eq!(signal(99).await, Err(FailureKind::Invalid));
    assert_eq!(signal(15).await, Ok(()));
    assert_eq!(call.finish().await.code(), 143);
    assert_eq!(signal(15).await, Err(FailureKind::NotFound));
}

#[tokio::test]
async fn what_is_ended_may_put_its_things_in_order() {
    let workspace = Workspace::start(&[]);
    let script = |name: &str| {
        let line = format!(
            "touch /tmp/{name}; trap 'echo tidy; head -c 500000 /dev/zero; rm /tmp/{name}; exit 9' TERM
             echo up; while :; do sleep 0.01; done"
        );
        command(&["sh", "-c", &line])
    };
    let is_there = |name: &str| workspace.root().join("tmp").join(name).exists();
    // By its timeout, and what it says then is heard.
    let start = Start {
        timeout_ms: 200,
        ..script("timeout")
    };
    let seen = workspace.run(start).await;
    let exit = seen.exit.as_ref().unwrap();
    assert!(exit.timed_out && exit.code == 9, "{exit:?}");
    assert!(seen.text().starts_with("up\ntidy\n") && seen.stdout.len() > 500_000);
    assert!(!is_there("timeout"));
    // By a caller that leaves, with nobody to take what it says.
    let mut call = workspace.begin(script("left")).await;
    call.until_text("up").await;
    assert!(is_there("left"));
    drop(call);
    wait_until("its order", async || !is_there("left")).await;
    // By being removed. One that is stopped acts on it too.
    let start = Start {
        keep: true,
        ..script("removed")
    };
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("up").await;
    call.send(Input::Signal(19)).await;
    let request = RemoveProcessRequest { id };
    let removed = workspace.client().processes().remove(request).await;
    assert_eq!(removed.unwrap().into_inner().exit.unwrap().code, 9);
    assert!(!is_there("removed"));
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree() {
    let workspace = Workspace::start(&[]);
    let start = Start {
        timeout_ms: 300,
        ..command(&[
            "sh",
            "-c",
            "trap '' TERM; (sleep 601; :) & setsid sleep 602 & echo up; wait",
        ])
    };
    let began = Instant::now();
    let seen = workspace.run(start).await;
    let exit = seen.exit.unwrap();
    assert!(exit.timed_out && exit.code == 137, "{exit:?}");
    // It had the grace that it did not take, and the rest of its tree with it.
    assert!(began.elapsed() > Duration::from_secs(3));
    assert!(exit.duration_ms > 3000, "{exit:?}");
    wait_until("all of it to be gone", async || {
        workspace.count("sleep") == 0
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_tree_along() {
    let workspace = Workspace::start(&[]);
    // Children of children, one in a group of its own, one in a session of its own.
    let script =
        "setsid sh -c 'sleep 604; :' & set -m; sleep 601 & (sleep 602 & sleep 603) & echo up; wait";
    let mut call = workspace.begin(command(&["bash", "-c", script])).await;
    call.until_text("up").await;
    wait_until("the tree", async || workspace.count("sleep 60") >= 5).await;
    drop(call);
    wait_until("all of it to be gone", async || {
        workspace.count("sleep 60") == 0
    })
    .await;
    // While children leave its session as fast as they can: none is lost between two looks.
    for _ in 0..20 {
        let script = "echo up; for n in $(seq 60); do setsid sleep 606 & done; wait";
        let mut call = workspace.begin(command(&["sh", "-c", script])).await;
        call.until_text("up").await;
        drop(call);
        wait_until("every child to be gone", async || {
            workspace.count("sleep 606") == 0
        })
        .await;
    }
    // While the program floods and nothing is read.
    let mut call = workspace.begin(command(&["yes", "a-flood"])).await;
    call.until_text("a-flood").await;
    drop(call);
    wait_until("the flood to end", async || workspace.count("a-flood") == 0).await;
    wait_until("the count", async || {
        let health = workspace.client().agent().health(HealthRequest {}).await;
        health.unwrap().into_inner().running == 0
    })
    .await;
}

#[tokio::test]
async fn a_background_child_that_keeps_the_pipes_does_not_keep_the_caller() {
    let workspace = Workspace::start(&[]);
    let began = Instant::now();
    let seen = workspace
        .run(command(&["sh", "-c", "echo all of it; sleep 605 & exit 3"]))
        .await;
    let took = began.elapsed();
    assert_eq!((seen.code(), seen.text().as_str()), (3, "all of it\n"));
    assert!(seen.exit.as_ref().unwrap().output_incomplete);
    assert!((90..1000).contains(&took.as_millis()), "{took:?}");
    // It lives on: the command has ended, and nobody left.
    assert_eq!(workspace.count("sleep 605"), 1);
    // What comes soon after the end is waited for, and then there is nothing to say.
    let line = "(while kill -0 $$; do :; done; echo late) 2>/dev/null & echo first";
    let mut whole = 0;
    for _ in 0..20 {
        for start in [command(&["sh", "-c", line]), kept(&["sh", "-c", line])] {
            let seen = workspace.run(start).await;
            // A machine that is busy may take longer, which is said then.
            if !seen.exit.as_ref().unwrap().output_incomplete {
                assert_eq!(seen.text(), "first\nlate\n");
                whole += 1;
            }
        }
    }
    assert!(whole > 0);
    let seen = workspace
        .run(kept(&["sh", "-c", "echo first; (sleep 5; echo late) & :"]))
        .await;
    assert_eq!(seen.text(), "first\n");
    assert!(seen.exit.unwrap().output_incomplete);
    // One that floods does not either, and what the command itself wrote is whole.
    let began = Instant::now();
    let line = "yes background & head -c 60000 /dev/zero; exit 4";
    let seen = workspace.run(command(&["sh", "-c", line])).await;
    assert_eq!(seen.code(), 4);
    assert!(seen.exit.as_ref().unwrap().output_incomplete);
    assert_eq!(
        seen.stdout.iter().filter(|byte| **byte == 0).count(),
        60_000
    );
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_hundred_commands_at_once() {
    let workspace = Workspace::start(&[]);
    let all = (0..100).map(|number| {
        let start = command(&[
            "sh",
            "-c",
            &format!("sleep 0.2; echo {number}; exit {}", number % 7),
        ]);
        let workspace = &workspace;
        async move {
            let seen = workspace.run(start).await;
            assert_eq!(
                (seen.text(), seen.code()),
                (format!("{number}\n"), number % 7)
            );
        }
    });
    futures_util::future::join_all(all).await;
}
