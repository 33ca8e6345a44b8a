//! What fuzzing runs: real parsers with the rules that must hold for whatever they are given. A rule
//! that is broken is a panic.

use super::path::{InsidePath, Key, below, child, is_plain, resume};

/// Paths of requests: parsing, splitting, joining, and the order of listings.
///
/// # Panics
/// When a rule is broken.
pub fn path(data: &[u8]) {
    let (first, second) = match data.iter().position(|byte| *byte == 0xfe) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b""[..]),
    };
    if let Ok(path) = InsidePath::parse(first) {
        check(&path);
        check_joined(&path, second);
    } else {
        let absolute = first.first() == Some(&b'/');
        assert!(!absolute || first.contains(&0) || first.len() > 4095);
    }
    check_below(first, second);
    check_order(first, second);
}

fn check(path: &InsidePath) {
    let absolute = path.absolute();
    assert!(absolute.starts_with(b"/") && !absolute.contains(&0));
    assert!(absolute.len() < 4096);
    assert_eq!(path.is_root(), absolute == b"/");
    // The root is its own parent.
    assert_ne!(path.components().next(), Some(&b".."[..]));
    for component in path.components() {
        assert!(!matches!(component, b"" | b".") && !component.contains(&b'/'));
    }
    // It is in its final form.
    let kernel = path.for_kernel();
    assert_eq!(InsidePath::parse(&kernel).as_ref(), Ok(path));
    match path.split() {
        Some((parent, name)) => {
            check_name(name);
            assert_eq!(child(parent.absolute(), name), absolute);
            assert_eq!(below(parent.absolute(), absolute), Some(name));
        }
        None => assert!(path.is_root() || path.components().last() == Some(b"..")),
    }
}

fn check_name(name: &[u8]) {
    assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'));
}

fn check_joined(path: &InsidePath, target: &[u8]) {
    let Ok(joined) = path.join(target) else {
        return;
    };
    let expected = match target.first() {
        Some(b'/') => target.to_vec(),
        _ => [path.absolute(), b"/", target].concat(),
    };
    assert_eq!(Ok(joined), InsidePath::parse(&expected));
}

fn check_below(directory: &[u8], path: &[u8]) {
    if let Some(rest) = below(directory, path) {
        assert!(path.starts_with(directory) && path.ends_with(rest) && !rest.is_empty());
        if !directory.is_empty() {
            assert_eq!(child(directory, rest), path);
        }
    }
}

/// The order of names in a listing is that of the bytes of paths, and a listing that goes on after a
/// path leaves nothing out and repeats nothing.
fn check_order(first: &[u8], second: &[u8]) {
    let name = |data: &[u8]| -> Vec<u8> { data.iter().copied().filter(|b| *b != b'/').collect() };
    let (one, other) = (name(first), name(second));
    for (below_one, below_other) in [(false, false), (false, true), (true, false), (true, true)] {
        let text = |name: &[u8], below: bool| match below {
            true => [name, b"/"].concat(),
            false => name.to_vec(),
        };
        let order = Key {
            name: &one,
            below: below_one,
        }
        .cmp(&Key {
            name: &other,
            below: below_other,
        });
        assert_eq!(order, text(&one, below_one).cmp(&text(&other, below_other)));
    }
    if is_plain(first) {
        first.split(|byte| *byte == b'/').for_each(check_name);
        let (done, deeper) = resume(first);
        let again = match deeper {
            Some(deeper) => [done.name, b"/", deeper].concat(),
            None => done.name.to_vec(),
        };
        assert_eq!((again.as_slice(), done.below), (first, deeper.is_some()));
    }
}

#[cfg(test)]
mod tests {
    /// A small generator of numbers (splitmix64), so that a failure can be repeated.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    /// Mostly bytes that mean something in a path.
    fn input(numbers: &mut Numbers) -> Vec<u8> {
        const BYTES: &[u8] = b"//////....ab-a\x00\xfe\xff\n0";
        let length = match numbers.next() % 50 {
            0 => 4090 + numbers.next() % 12,
            _ => numbers.next() % 24,
        };
        (0..length)
            .map(|_| match numbers.next() % 16 {
                0 => numbers.next() as u8,
                n => BYTES[(n.wrapping_mul(numbers.next()) % BYTES.len() as u64) as usize],
            })
            .collect()
    }

    #[test]
    fn the_rules_of_paths_hold() {
        let mut numbers = Numbers(1);
        for _ in 0..50_000 {
            let mut data = input(&mut numbers);
            super::path(&data);
            data.insert(0, b'/');
            super::path(&data);
        }
    }
}
