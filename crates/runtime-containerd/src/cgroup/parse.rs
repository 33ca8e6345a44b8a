//! The contents of cgroup files (kernel: `admin-guide/cgroup-v1`, `admin-guide/cgroup-v2`).

use botstead_runtime::CpuUsage;

/// Ticks per second in what the kernel shows to programs, `USER_HZ`: 100 on every architecture that
/// Rust's Linux targets run on, whatever the kernel's own `HZ` is.
const USER_HZ: u64 = 100;
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / USER_HZ;
const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// Version 1 has no word for no limit: it shows the largest number of bytes that is a multiple of
/// the page size, and pages have up to 64 KiB.
const NO_LIMIT_V1: u64 = i64::MAX as u64 - 0xffff;

/// A file of one number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The number of a line `<name> <number>`.
pub(super) fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    text.split(|byte| *byte == b'\n')
        .find_map(|line| number(line.strip_prefix(name)?.strip_prefix(b" ")?))
}

/// `memory.limit_in_bytes`; 0 when there is none.
pub(super) fn limit_v1(text: &[u8]) -> Option<u64> {
    number(text).map(|limit| if limit >= NO_LIMIT_V1 { 0 } else { limit })
}

/// `memory.max`; 0 when there is none.
pub(super) fn limit_v2(text: &[u8]) -> Option<u64> {
    match text.trim_ascii() {
        b"max" => Some(0),
        limit => number(limit),
    }
}

/// `cpuacct.stat`, without the total, which is not in it.
pub(super) fn cpuacct_stat(text: &[u8]) -> Option<CpuUsage> {
    let time = |name| Some(field(text, name)?.saturating_mul(NANOSECONDS_PER_TICK));
    Some(CpuUsage {
        usage_nanoseconds: 0,
        user_nanoseconds: time(b"user")?,
        kernel_nanoseconds: time(b"system")?,
    })
}

/// `cpu.stat` of version 2.
pub(super) fn cpu_stat(text: &[u8]) -> Option<CpuUsage> {
    let time = |name| Some(field(text, name)?.saturating_mul(NANOSECONDS_PER_MICROSECOND));
    Some(CpuUsage {
        usage_nanoseconds: time(b"usage_usec")?,
        user_nanoseconds: time(b"user_usec")?,
        kernel_nanoseconds: time(b"system_usec")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_or_refused() {
        assert_eq!(number(b"0\n"), Some(0));
        assert_eq!(number(b"18446744073709551615\n"), Some(u64::MAX));
        for wrong in [
            "",
            "\n",
            "max\n",
            "-1\n",
            "1 2\n",
            "18446744073709551616\n",
            "0000000000000000000001",
        ] {
            assert_eq!(number(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = b"inactive_file_x 1\ntotal_inactive_file 2\ninactive_file 3\n";
        assert_eq!(field(text, b"inactive_file"), Some(3));
        assert_eq!(field(text, b"total_inactive_file"), Some(2));
        assert_eq!(field(text, b"active_file"), None);
    }

    #[test]
    fn no_limit_is_zero_with_every_page_size() {
        assert_eq!(limit_v1(b"9223372036854771712\n"), Some(0));
        assert_eq!(limit_v1(b"9223372036854710272\n"), Some(0));
        assert_eq!(limit_v1(b"536870912\n"), Some(536_870_912));
        assert_eq!(limit_v2(b"max\n"), Some(0));
        assert_eq!(limit_v2(b"536870912\n"), Some(536_870_912));
        assert_eq!(limit_v2(b"maximum\n"), None);
    }
}
