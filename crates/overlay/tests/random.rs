//! Random layers, made by the kernel's overlayfs, look the same merged.

mod support;

use proptest::prelude::*;
use support::Stack;
use support::changes::changes;

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_stack_looks_like_the_stack(
        image in prop::collection::vec(changes(30), 1..3),
        layers in prop::collection::vec(changes(25), 1..6),
    ) {
        let mut stack = Stack::new();
        for changes in &image {
            stack.layer(|at| changes.iter().for_each(|change| drop(change.make(at))));
        }
        stack.freeze_image();
        for changes in &layers {
            stack.layer(|at| changes.iter().for_each(|change| drop(change.make(at))));
        }
        stack.check();
    }
}
