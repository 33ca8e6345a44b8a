//! How much of the arguments of processes is held and listed.

use botstead_bridge::proto::ProcessInfo;
use bytes::Bytes;

/// How many arguments a list shows, and their bytes together.
const SHOWN_ARGUMENTS: usize = 64;
const SHOWN_BYTES: usize = 4 << 10;
/// The bytes of all arguments in a list, which has to fit into one message.
const LISTED_BYTES: usize = 2 << 20;

/// Shows less of each process's arguments where there are too many.
pub(super) fn shorten(processes: &mut [ProcessInfo]) {
    let most = LISTED_BYTES / processes.len().max(1);
    if most < SHOWN_BYTES {
        for process in processes {
            process.args = cut(&process.args, most);
        }
    }
}

/// What is held of a process's arguments.
pub(super) fn shown(args: &[Bytes]) -> Vec<Bytes> {
    cut(args, SHOWN_BYTES)
}

fn cut(args: &[Bytes], most: usize) -> Vec<Bytes> {
    let mut left = most;
    let fits = |argument: &&Bytes| {
        let rest = left.checked_sub(argument.len() + 1);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let shown = args.iter().take(SHOWN_ARGUMENTS);
    // Copies: an argument that came in a message would hold all of that.
    shown
        .take_while(fits)
        .map(|argument| Bytes::copy_from_slice(argument))
        .collect()
}
