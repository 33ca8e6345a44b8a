//! The records of extended headers (POSIX pax), and the times in them.

use super::Time;

/// Adds `length key=value\n`.
pub(super) fn record(records: &mut Vec<u8>, key: &[&[u8]], value: &[u8]) {
    let rest = 3 + key.iter().map(|part| part.len()).sum::<usize>() + value.len();
    // The length counts its own digits.
    let mut length = rest;
    while rest + digits(length) != length {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    for part in key {
        records.extend_from_slice(part);
    }
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The keys and values of an extended header; `None` in place of what is malformed, and then no more.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let (parsed, rest) = match first(data) {
            Some((key, value, rest)) => (Some((key, value)), rest),
            None => (None, &[] as &[u8]),
        };
        data = rest;
        Some(parsed)
    })
}

fn first(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = &record[..equals];
    if key.is_empty() {
        return None;
    }
    Some((key, &record[equals + 1..], &data[length..]))
}

/// A number of digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

const SECOND: u32 = 1_000_000_000;

/// A time as a decimal fraction.
pub(super) fn time(time: Time) -> String {
    let Time {
        seconds,
        nanoseconds,
    } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    if seconds >= 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    // -1 s and 0.75 s after it is -0.25 s.
    format!("-{}.{:09}", -(seconds + 1), SECOND - nanoseconds)
}

/// A time from a decimal fraction; digits below a nanosecond are dropped, towards the past.
pub(super) fn parse_time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[] as &[u8]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0;
    let mut below = false;
    for (position, digit) in fraction.iter().enumerate() {
        let digit = char::from(*digit).to_digit(10)?;
        if let Ok(power) = u32::try_from(position)
            && power < 9
        {
            nanoseconds += digit * 10_u32.pow(8 - power);
        } else {
            below |= digit != 0;
        }
    }
    if !negative {
        return Some(Time {
            seconds,
            nanoseconds,
        });
    }
    nanoseconds += u32::from(below);
    if nanoseconds == 0 {
        return Some(Time {
            seconds: -seconds,
            nanoseconds,
        });
    }
    Some(Time {
        seconds: -seconds - 1,
        nanoseconds: SECOND - nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_anything() {
        let long = vec![b'v'; 5000];
        let pairs: [(&[u8], &[u8]); 5] = [
            (b"a", b""),
            (b"path", b"x\n12 y=z"),
            (b"bin\xff", b"\0\n="),
            (b"long", &long),
            // Whose length's digits change the length.
            (b"k", &long[..94]),
        ];
        let mut data = Vec::new();
        for (key, value) in pairs {
            record(&mut data, &[key], value);
        }
        let back: Vec<_> = records(&data).map(Option::unwrap).collect();
        assert_eq!(back, pairs);
        assert!(data.starts_with(b"5 a=\n"));
    }

    #[test]
    fn malformed_records_are_seen() {
        for data in [
            b"5 a=b".as_slice(),
            b"7 a=b\n",
            b"6 =bc\n",
            b"6 abc\n",
            b" a=b\n",
            b"x a=b\n",
            b"99999999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b"\0\0\0",
        ] {
            assert_eq!(records(data).last(), Some(None), "{data:?}");
        }
    }

    #[test]
    fn times_come_back() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (12, 5, "12.000000005"),
            (-1, 0, "-1"),
            (-1, 750_000_000, "-0.250000000"),
            (-2, 1, "-1.999999999"),
        ] {
            let expected = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(time(expected), text);
            assert_eq!(parse_time(text.as_bytes()), Some(expected));
        }
        for (text, seconds, nanoseconds) in [
            ("1.5", 1, 500_000_000),
            ("1.0000000009", 1, 0),
            ("-1.0000000001", -2, 999_999_999),
            ("-0.9999999999", -1, 0),
        ] {
            let expected = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(parse_time(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "-", ".", "1.x", "x", "99999999999999999999", "1e3"] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }
}
