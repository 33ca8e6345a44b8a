//! What the suite needs of a backend beside its ports.

use async_trait::async_trait;
use botstead_runtime::Runtime;
use botstead_types::{ImageRef, ResolvedImage, SnapshotKey};

/// A backend to test. Every test gets a fixture of its own; many may share one runtime, since the
/// suite gives everything it makes a name that nothing else has.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The runtime. Its namespace belongs to tests: everything that nothing protects goes.
    fn runtime(&self) -> Runtime;

    /// The image of [`Self::base`].
    fn image(&self) -> ResolvedImage;

    /// A committed snapshot in which the programs of [`Self::program`] are. It stays for as long
    /// as the fixture lives, without a lease of the suite.
    fn base(&self) -> SnapshotKey;

    /// Writes a file of an active snapshot from outside, while no task runs on it. Its folder
    /// is the root.
    async fn put_file(&self, key: &SnapshotKey, path: &str, content: &[u8]);

    /// A file as an active snapshot shows it; `None` when it does not exist.
    async fn read_file(&self, key: &SnapshotKey, path: &str) -> Option<Vec<u8>>;

    /// Program and arguments that behave like this, in [`Self::base`].
    fn program(&self, program: Program) -> Vec<String>;

    /// References for pulls; needed where [`botstead_runtime::Capabilities::images`] is true.
    fn images(&self) -> Option<ImageFixture>;

    /// Removes what the fixture made. Runs after the test also when it failed.
    async fn clean_up(&self);
}

/// How a program behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until SIGTERM or SIGKILL ends it. It may need a moment until it hears SIGTERM.
    Forever,
    /// Runs until SIGKILL ends it. It may need a moment until it ignores SIGTERM.
    Stubborn,
    /// Ends at once with this code.
    Exit(u8),
    /// Does not exist.
    Missing,
}

/// References with which pulls are tested.
#[derive(Debug, Clone)]
pub struct ImageFixture {
    /// A registry has it, for this platform, with at least one layer. It is not local.
    pub present: ImageRef,
    /// A registry that answers does not have it.
    pub absent: ImageRef,
    /// Its registry does not answer.
    pub unreachable: ImageRef,
}
