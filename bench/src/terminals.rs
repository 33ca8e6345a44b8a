//! Many terminals in one workspace at once.

use crate::api::Api;
use crate::server::{IMAGE, Server, memory};
use crate::stats::{Samples, timed};
use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What was measured. Memory in KiB.
#[derive(Debug)]
pub(crate) struct Terminals {
    pub(crate) count: usize,
    /// Each, until its prompt came.
    pub(crate) open: Samples,
    /// A key and what it shows, while all are open.
    pub(crate) key: Samples,
    /// Resident before and with all.
    pub(crate) server: (u64, u64),
    pub(crate) agent: (u64, u64),
}

/// Opens them one after the other, types into each, and closes them.
pub(crate) async fn measure(server: &Server, count: usize, rounds: usize) -> Result<Terminals> {
    let api = &server.api;
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let before = (server_memory(server)?, agent_memory(api, &bot).await?);
    let mut sockets = Vec::new();
    let mut open = Samples::default();
    for _ in 0..count {
        let opened = async {
            let (mut socket, _) = connect_async(api.terminal(&bot)).await?;
            output(&mut socket).await?;
            Ok::<_, anyhow::Error>(socket)
        };
        let (duration, socket) = timed(opened).await?;
        open.add(duration);
        sockets.push(socket);
    }
    let mut key = Samples::default();
    for _ in 0..rounds {
        for socket in &mut sockets {
            let typed = async {
                socket.send(Message::binary(&b"x"[..])).await?;
                output(socket).await
            };
            let (duration, ()) = timed(typed).await?;
            key.add(duration);
        }
    }
    let after = (server_memory(server)?, agent_memory(api, &bot).await?);
    for socket in &mut sockets {
        socket.close(None).await?;
    }
    api.delete_bot(&bot).await?;
    Ok(Terminals {
        count,
        open,
        key,
        server: (before.0, after.0),
        agent: (before.1, after.1),
    })
}

/// Waits for bytes of the terminal.
async fn output(socket: &mut Socket) -> Result<()> {
    while let Some(message) = socket.next().await {
        if matches!(message?, Message::Binary(bytes) if !bytes.is_empty()) {
            return Ok(());
        }
    }
    bail!("the terminal ended")
}

fn server_memory(server: &Server) -> Result<u64> {
    Ok(memory(server.pid())?.0)
}

async fn agent_memory(api: &Api, bot: &str) -> Result<u64> {
    let status = api.exec(bot, &["/bin/cat", "/proc/1/status"]).await?;
    let status = status["stdout"].as_str().context("no stdout")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}
