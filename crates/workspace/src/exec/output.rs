//! A command's outputs, collected within a bound: of one that is longer, what came first and what came
//! last.

use super::model::{CommandEvent, ExecExit, ExecOutcome, OutputGap, OutputPosition, OutputStream};
use crate::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

/// What is kept of each of a command's outputs.
pub(super) const OUTPUT_LIMIT: usize = 1 << 20;
/// What of it came first, where there is more.
const HEAD: usize = OUTPUT_LIMIT / 2;

/// Asks whether there is memory, until the first no.
struct Budget<R> {
    room: R,
    refused: bool,
}

impl<R: AsyncFnMut(&[u8], &[u8]) -> bool> Budget<R> {
    async fn allows(&mut self, data: &[u8], instead_of: &[u8]) -> bool {
        let allowed = (self.room)(data, instead_of).await;
        self.refused |= !allowed;
        allowed
    }
}

/// Both ends of an output.
#[derive(Debug, Default)]
struct Ends {
    data: Vec<u8>,
    /// Where bytes are left out, once some are. What lies before it stays; behind it new bytes take the
    /// places of the oldest ones.
    gap: Option<usize>,
    /// The place of the oldest byte behind the gap.
    oldest: usize,
    omitted: u64,
}

impl Ends {
    async fn keep<R>(&mut self, mut data: &[u8], budget: &mut Budget<R>)
    where
        R: AsyncFnMut(&[u8], &[u8]) -> bool,
    {
        let fits = data.len().min(OUTPUT_LIMIT - self.data.len());
        if fits > 0 && !budget.refused && budget.allows(&data[..fits], &[]).await {
            self.data.extend_from_slice(&data[..fits]);
            data = &data[fits..];
        }
        if data.is_empty() {
            return;
        }
        let gap = self.open_gap(self.data.len() / 2);
        let unkept = data.len().saturating_sub(self.data.len() - gap);
        self.omitted += unkept as u64;
        data = &data[unkept..];
        while !data.is_empty() {
            let count = data.len().min(self.data.len() - self.oldest);
            let places = self.oldest..self.oldest + count;
            let (now, later) = data.split_at(count);
            if !budget.allows(now, &self.data[places.clone()]).await {
                // What is not the end of the output must not look like it.
                self.drop_behind(gap);
                self.omitted += data.len() as u64;
                return;
            }
            self.data[places].copy_from_slice(now);
            self.omitted += count as u64;
            self.oldest += count;
            if self.oldest == self.data.len() {
                self.oldest = gap;
            }
            data = later;
        }
    }

    /// So many bytes are missing here. There is one gap: what lies between two is left out too.
    fn skip(&mut self, bytes: u64) {
        if bytes > 0 {
            let gap = self.open_gap(self.data.len().min(HEAD));
            self.drop_behind(gap);
            self.omitted = self.omitted.saturating_add(bytes);
        }
    }

    fn open_gap(&mut self, at: usize) -> usize {
        *self.gap.get_or_insert_with(|| {
            self.oldest = at;
            at
        })
    }

    fn drop_behind(&mut self, gap: usize) {
        self.omitted += (self.data.len() - gap) as u64;
        self.data.truncate(gap);
        self.oldest = gap;
    }

    fn finish(mut self) -> (Bytes, Option<OutputGap>) {
        let gap = self.gap.map(|at| {
            self.data[at..].rotate_left(self.oldest - at);
            OutputGap {
                at,
                bytes: self.omitted,
            }
        });
        (self.data.into(), gap)
    }
}

/// Reads a command's events to their end and keeps both ends of its outputs, as far as there is room.
pub(super) async fn collect(
    mut events: BoxStream<'static, Result<CommandEvent>>,
    from: OutputPosition,
    room: impl AsyncFnMut(&[u8], &[u8]) -> bool,
) -> Result<ExecOutcome> {
    let (mut exec_id, mut exit) = (String::new(), None::<ExecExit>);
    let mut end = from;
    let (mut stdout, mut stderr) = (Ends::default(), Ends::default());
    let mut budget = Budget {
        room,
        refused: false,
    };
    while let Some(event) = events.next().await {
        let event = event?;
        end.pass(&event);
        match event {
            CommandEvent::Started { exec_id: id } => exec_id = id,
            CommandEvent::Stdout(data) => stdout.keep(&data, &mut budget).await,
            CommandEvent::Stderr(data) => stderr.keep(&data, &mut budget).await,
            CommandEvent::Skipped { stream, bytes } => match stream {
                OutputStream::Stdout => stdout.skip(bytes),
                OutputStream::Stderr => stderr.skip(bytes),
            },
            CommandEvent::Resized(_) | CommandEvent::InputRefused { .. } => {}
            CommandEvent::Exit(it) => exit = Some(it),
        }
    }
    if let Some(message) = exit.as_ref().and_then(|exit| exit.message.as_ref()) {
        let line = format!("{message}\n");
        stderr.keep(line.as_bytes(), &mut budget).await;
    }
    let ((stdout, stdout_gap), (stderr, stderr_gap)) = (stdout.finish(), stderr.finish());
    let cut = exit.as_ref().is_some_and(|exit| exit.truncated);
    Ok(ExecOutcome {
        exec_id,
        truncated: cut || stdout_gap.is_some() || stderr_gap.is_some(),
        exit,
        stdout,
        stderr,
        stdout_gap,
        stderr_gap,
        end,
        version: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    /// Bytes of which each tells its place.
    fn output(len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(4)).map(|n| u32::try_from(n).unwrap().to_be_bytes());
        words.flatten().take(len).collect()
    }

    async fn collected(
        events: Vec<CommandEvent>,
        room: impl AsyncFnMut(&[u8], &[u8]) -> bool,
    ) -> ExecOutcome {
        let events = stream::iter(events.into_iter().map(Ok)).boxed();
        let from = OutputPosition::default();
        collect(events, from, room).await.unwrap()
    }

    fn stdout(data: &[u8]) -> CommandEvent {
        CommandEvent::Stdout(Bytes::copy_from_slice(data))
    }

    #[tokio::test]
    async fn of_a_long_output_both_ends_are_kept() {
        for extra in [0, 1, 3, 1000, HEAD, OUTPUT_LIMIT, 5 * OUTPUT_LIMIT + 7] {
            for piece in [777, 64 << 10, 3 * OUTPUT_LIMIT] {
                let all = output(OUTPUT_LIMIT + extra);
                let mut events: Vec<_> = all.chunks(piece).map(stdout).collect();
                events.push(CommandEvent::Stderr("short".into()));
                // What takes another's place takes no more memory than that gave back.
                let mut held = 0;
                let room = async |data: &[u8], instead_of: &[u8]| {
                    held = held + data.len() - instead_of.len();
                    true
                };
                let done = collected(events, room).await;
                assert!(held <= OUTPUT_LIMIT + 5, "{held}");
                assert_eq!((&*done.stderr, done.stderr_gap), (&b"short"[..], None));
                assert_eq!(done.truncated, extra > 0);
                assert_eq!(done.end.to_string(), format!("{}-5", all.len()));
                let Some(gap) = done.stdout_gap else {
                    assert_eq!(extra, 0);
                    assert_eq!(done.stdout, all);
                    continue;
                };
                assert_eq!((gap.at, gap.bytes), (HEAD, extra as u64));
                assert_eq!(done.stdout[..HEAD], all[..HEAD]);
                assert!(
                    done.stdout[HEAD..] == all[all.len() - HEAD..],
                    "{extra} {piece}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_was_missing_before_is_part_of_the_gap() {
        let skipped = |bytes| CommandEvent::Skipped {
            stream: OutputStream::Stdout,
            bytes,
        };
        let first = vec![skipped(5), stdout(&output(OUTPUT_LIMIT))];
        let done = collected(first, async |_, _| true).await;
        assert_eq!(done.stdout_gap, Some(OutputGap { at: 0, bytes: 5 }));
        assert_eq!(done.stdout, output(OUTPUT_LIMIT));
        let between = vec![
            stdout(b"one"),
            skipped(10),
            stdout(b"two"),
            skipped(20),
            stdout(b"three"),
        ];
        let done = collected(between, async |_, _| true).await;
        assert_eq!(done.stdout_gap, Some(OutputGap { at: 3, bytes: 33 }));
        assert_eq!(done.stdout, "onethree");
    }

    #[tokio::test]
    async fn with_little_memory_less_of_both_ends_is_kept() {
        let all = output(100_000);
        let events: Vec<_> = all.chunks(1000).map(stdout).collect();
        let mut held = 0;
        let room = async |data: &[u8], instead_of: &[u8]| {
            let more = data.len() - instead_of.len();
            let fits = held + more <= 10_000;
            held += if fits { more } else { 0 };
            fits
        };
        let done = collected(events.clone(), room).await;
        let gap = OutputGap {
            at: 5000,
            bytes: 90_000,
        };
        assert_eq!(done.stdout_gap, Some(gap));
        assert_eq!(done.stdout, [&all[..5000], &all[95_000..]].concat());
        // Where not even that can go on, the rest is left out.
        let mut left = 11_000;
        let room = async |_: &[u8], instead_of: &[u8]| {
            left -= if instead_of.is_empty() { 1000 } else { 0 };
            instead_of.is_empty() && left > 0
        };
        let done = collected(events, room).await;
        assert_eq!(
            done.stdout_gap,
            Some(OutputGap {
                at: 5000,
                bytes: 95_000
            })
        );
        assert_eq!(done.stdout, all[..5000]);
    }
}
