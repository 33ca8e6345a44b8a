//! When the layers of a workspace become too many, and which of them to merge.

use botstead_types::SnapshotKey;

/// The most lower directories that a workspace's mount may have above those of its image. Each
/// makes a failed look-up slower, and the options of a mount end at 4 KiB.
pub const MAX_LOWER_DIRECTORIES: usize = 32;

/// What to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlattenPlan {
    /// The image's top layer, on which the merged snapshot is prepared; `None` for an image
    /// without layers.
    pub base: Option<SnapshotKey>,
    /// The snapshots to merge into it, in the order in which their changes are applied: the
    /// lowest first. The last one's contents are what the merged snapshot must show.
    pub merge: Vec<SnapshotKey>,
}

impl FlattenPlan {
    /// The chain after the plan was carried out, when the merged snapshot is called `merged`.
    pub fn apply(&self, chain: &[SnapshotKey], merged: SnapshotKey) -> Vec<SnapshotKey> {
        let image = chain.iter().skip(self.merge.len()).cloned();
        std::iter::once(merged).chain(image).collect()
    }
}

/// Whether an active snapshot that has `chain` beneath it (its parent first, the base last, the
/// lowest `image_layers` of them the image's) would have more than [`MAX_LOWER_DIRECTORIES`], and
/// what to merge then. `None`: nothing needs to be merged.
///
/// Ask before a snapshot is prepared on `chain[0]`, also when that one is to be committed first:
/// then no chain that exists ever exceeds the bound.
pub fn flatten_plan(chain: &[SnapshotKey], image_layers: usize) -> Option<FlattenPlan> {
    let own = chain.len().saturating_sub(image_layers);
    if own <= MAX_LOWER_DIRECTORIES {
        return None;
    }
    Some(FlattenPlan {
        base: chain.get(own).cloned(),
        merge: chain[..own].iter().rev().cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(own: usize, image: usize) -> Vec<SnapshotKey> {
        let own = (0..own).rev().map(|i| format!("own{i}"));
        let image = (0..image).rev().map(|i| format!("image{i}"));
        own.chain(image).map(|key| key.parse().unwrap()).collect()
    }

    #[test]
    fn up_to_the_bound_nothing_is_merged() {
        assert_eq!(flatten_plan(&[], 0), None);
        assert_eq!(flatten_plan(&chain(32, 0), 0), None);
        assert_eq!(flatten_plan(&chain(32, 100), 100), None);
        assert_eq!(flatten_plan(&chain(0, 3), 5), None);
    }

    #[test]
    fn beyond_it_everything_above_the_image_is_merged_from_below() {
        let chain = chain(33, 4);
        let plan = flatten_plan(&chain, 4).unwrap();
        assert_eq!(plan.base.as_ref().unwrap().as_str(), "image3");
        assert_eq!(plan.merge.len(), 33);
        assert_eq!(plan.merge[0].as_str(), "own0");
        assert_eq!(plan.merge[32].as_str(), "own32");
        let after = plan.apply(&chain, "merged".parse().unwrap());
        let names: Vec<_> = after.iter().map(SnapshotKey::as_str).collect();
        assert_eq!(names, ["merged", "image3", "image2", "image1", "image0"]);
        assert_eq!(flatten_plan(&after, 4), None);
    }

    #[test]
    fn without_image_layers_the_merged_one_is_the_base() {
        let plan = flatten_plan(&chain(33, 0), 0).unwrap();
        assert_eq!(plan.base, None);
    }
}
