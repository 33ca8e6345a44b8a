//! Reading the fixed fields of a header: numbers, texts, the checksum.

use super::BLOCK;

/// A number in octal digits, or in GNU's binary form; nothing at all is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return binary(field);
    }
    let digits = field.iter().position(|byte| *byte != b' ')?;
    let digits = &field[digits..];
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' '));
    let mut value: i64 = 0;
    for digit in &digits[..end.unwrap_or(digits.len())] {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// Two's complement, the highest bit being the mark.
fn binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (position, byte) in field.iter().enumerate() {
        let byte = match (position, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        // Whatever is shifted out must have been sign.
        let shifted = value.checked_mul(256)?;
        value = if position == 0 && negative {
            i64::from(byte.cast_signed())
        } else {
            shifted.checked_add(i64::from(byte))?
        };
    }
    Some(value)
}

/// A number that is none less than 0.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    number(field).and_then(|value| u64::try_from(value).ok())
}

/// A text up to its zero byte.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Whether the header's own sum is right. Some old programs summed signed bytes.
pub(super) fn checksum(block: &[u8; BLOCK]) -> bool {
    let Some(expected) = number(&block[148..156]) else {
        return false;
    };
    // The field itself counts as spaces.
    let (before, behind) = (&block[..148], &block[156..]);
    let sum = |value: fn(&u8) -> i64| {
        before.iter().map(value).sum::<i64>() + 8 * 32 + behind.iter().map(value).sum::<i64>()
    };
    expected == sum(|byte| i64::from(*byte)) || expected == sum(|byte| byte.cast_signed().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777777\0", Some((8 << 30) - 1)),
            (b"77777777777", Some((8 << 30) - 1)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", None),
            (b"12x", None),
            (b"8", None),
            (b"-1", None),
            (b"", None),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some(-1),
            ),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"\x81\0", Some(256)),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
        assert_eq!(unsigned(b"\xff\xff"), None);
    }

    #[test]
    fn the_tar_crates_numbers_are_read_back() {
        let mut header = tar::Header::new_ustar();
        for value in [0, 1, 0o777, 2_097_151, 2_097_152, u64::from(u32::MAX)] {
            header.set_uid(value);
            header.set_size(value << 20);
            assert_eq!(unsigned(&header.as_old().uid), Some(value));
            assert_eq!(unsigned(&header.as_old().size), Some(value << 20));
        }
        header.set_cksum();
        assert!(checksum(header.as_bytes()));
        header.as_mut_bytes()[0] ^= 1;
        assert!(!checksum(header.as_bytes()));
    }
}
