//! Real images and registries for tests, `xtask up --check` and the bench. Never shipped.
//!
//! - [`LayerBuilder`] and [`Image`] build layers, configurations, manifests and indexes in memory,
//!   byte for byte what a registry would serve; [`busybox`] and [`random`] are ready-made ones.
//! - [`oci_archive`] and [`docker_archive`] write them as the tar files that `skopeo` and
//!   `docker save` make.
//! - [`Registry`] runs the real `docker-registry` binary on a free loopback port, and
//!   [`Registry::push`] puts images into it; [`Registry::start_with`] gives it a sign-in, and TLS by an
//!   [`Authority`] of the test's own.
//! - [`FaultyRegistry`] serves one image and misbehaves in a chosen way: see [`Fault`].
//!
//! What is deliberately absent: pulling, unpacking and everything of containerd.
//!
//! ```
//! use botstead_image_fixtures::{Compression, Image, LayerBuilder};
//!
//! let layer = LayerBuilder::new()
//!     .dir("etc", 0o755)
//!     .file("etc/motd", 0o644, "hello\n")
//!     .build(Compression::Gzip)?;
//! let image = Image::builder().layer(layer).build();
//! assert!(image.digest().starts_with("sha256:"));
//! # Ok::<(), std::io::Error>(())
//! ```

mod archive;
mod authority;
mod faulty;
mod image;
mod layer;
mod presets;
mod registry;

pub use archive::{docker_archive, oci_archive};
pub use authority::Authority;
pub use faulty::{Fault, FaultyRegistry};
pub use image::{Image, ImageBuilder, Index, MediaTypes};
pub use layer::{Compression, Layer, LayerBuilder};
pub use presets::{busybox, busybox_builder, random};
pub use registry::{Access, Registry, Tagged};

use sha2::{Digest, Sha256};

/// The digest of some bytes, as `sha256:<hex>`.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// This machine's architecture in Go's words, such as `amd64`.
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "x86" => "386",
        other => other,
    }
}
