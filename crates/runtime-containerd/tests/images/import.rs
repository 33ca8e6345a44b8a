//! Importing OCI and docker archives into a real containerd, and pulling onto a full disk.

use crate::support::{Containerd, busybox, quick};
use botstead_image_fixtures::{
    Compression, Image, Index, LayerBuilder, MediaTypes, docker_archive, oci_archive, random,
};
use botstead_runtime::{ErrorKind, Images, Result};
use botstead_types::{ImageRef, LeaseId};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

fn compressed(tar: &[u8], compression: Compression) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    match compression {
        Compression::None => file.write_all(tar).unwrap(),
        Compression::Gzip => {
            let fast = flate2::Compression::fast();
            let mut gzip = flate2::write::GzEncoder::new(&mut file, fast);
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap();
        }
        Compression::Zstd => zstd::stream::copy_encode(tar, &mut file, 1).unwrap(),
    }
    file
}

async fn import(
    containerd: &Containerd,
    lease: &LeaseId,
    archive: &Path,
    name: Option<&str>,
) -> Result<Vec<botstead_runtime::Image>> {
    let name: Option<ImageRef> = name.map(|name| name.parse().unwrap());
    containerd
        .images()
        .import(lease, archive, name.as_ref(), &CancellationToken::new())
        .await
}

fn names(images: &[botstead_runtime::Image]) -> Vec<&str> {
    images
        .iter()
        .map(|image| image.resolved.reference.as_str())
        .collect()
}

/// As a user packs it.
fn packed(tar: &[u8], program: &str) -> NamedTempFile {
    let plain = compressed(tar, Compression::None);
    let file = NamedTempFile::new().unwrap();
    let mut command = Command::new(program);
    command.arg("-c").stdin(plain.reopen().unwrap());
    let status = command.stdout(file.reopen().unwrap()).status();
    assert!(
        status
            .unwrap_or_else(|error| panic!("apt-get install {program}: {error}"))
            .success()
    );
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_packed_by_xz_and_bzip2_are_imported() {
    let containerd = Containerd::start().await;
    let image = busybox();
    let mut oci = Vec::new();
    oci_archive(&mut oci, &[(Some("example.org/oci:1"), &image)], None).unwrap();
    let mut docker = Vec::new();
    docker_archive(&mut docker, &[(&["example.org/docker:1"][..], &image)]).unwrap();
    for program in ["xz", "bzip2"] {
        for (tar, name) in [
            (&oci, "example.org/oci:1"),
            (&docker, "example.org/docker:1"),
        ] {
            let archive = packed(tar, program);
            let lease = containerd.lease("import").await;
            let imported = import(&containerd, &lease, archive.path(), None)
                .await
                .unwrap();
            assert_eq!(names(&imported), [name]);
            containerd
                .images()
                .delete(&imported[0].resolved.reference)
                .await
                .unwrap();
            containerd.end(&lease).await;
            containerd.collect().await;
            containerd.assert_empty().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_archives_of_every_compression_are_imported() {
    let containerd = Containerd::start().await;
    let image = busybox();
    let large = random(2, 3 << 20, 7, Compression::None).unwrap();
    let other = Image::builder().architecture("mips").layer(
        LayerBuilder::new()
            .file("other", 0o644, "")
            .build(Compression::Gzip)
            .unwrap(),
    );
    let index = Index::new(MediaTypes::Oci, vec![other.build(), busybox()]);
    let mut tar = Vec::new();
    oci_archive(
        &mut tar,
        &[(Some("example.org/a/busybox:1"), &image), (None, &large)],
        Some(("example.org/a/multi:1", &index)),
    )
    .unwrap();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let archive = compressed(&tar, compression);
        let lease = containerd.lease("import").await;
        let imported = import(&containerd, &lease, archive.path(), Some("given/name:2"))
            .await
            .unwrap();
        // Again, with everything there.
        let again = import(&containerd, &lease, archive.path(), Some("given/name:2"))
            .await
            .unwrap();
        assert_eq!(names(&imported), names(&again));
        containerd.end(&lease).await;
        let mut sorted = names(&imported);
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "docker.io/given/name:2",
                "example.org/a/busybox:1",
                "example.org/a/multi:1"
            ]
        );
        let images = containerd.images();
        for (name, digest) in [
            ("given/name:2", large.digest()),
            ("example.org/a/busybox:1", image.digest()),
            ("example.org/a/multi:1", index.digest()),
        ] {
            let reference = name.parse().unwrap();
            assert_eq!(
                images.get(&reference).await.unwrap().resolved.digest,
                digest
            );
            let lease = containerd.lease("unpack").await;
            images.unpack(&lease, &reference).await.unwrap();
            containerd.end(&lease).await;
            images.delete(&reference).await.unwrap();
        }
        containerd.collect().await;
        containerd.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_imported() {
    let containerd = Containerd::start().await;
    let image = busybox();
    let mut tar = Vec::new();
    docker_archive(&mut tar, &[(&["app:1", "app:2"], &image)]).unwrap();
    let archive = compressed(&tar, Compression::None);
    let lease = containerd.lease("import").await;
    let imported = import(&containerd, &lease, archive.path(), None)
        .await
        .unwrap();
    containerd.end(&lease).await;
    assert_eq!(
        names(&imported),
        ["docker.io/library/app:1", "docker.io/library/app:2"]
    );
    assert_eq!(imported[0].resolved.config.working_dir, "/data");
    let (blobs, snapshots, _) = containerd.inventory().await;
    assert_eq!((blobs.len(), snapshots.len()), (5, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_writes_is_imported() {
    let containerd = Containerd::start().await;
    // Docker's media types have no zstd.
    let image = botstead_image_fixtures::busybox(Path::new("/bin/busybox"), &[]).unwrap();
    let mut tar = Vec::new();
    oci_archive(&mut tar, &[(Some("example.org/a:1"), &image)], None).unwrap();
    let source = compressed(&tar, Compression::None);
    let dir = tempfile::tempdir().unwrap();
    for format in ["docker-archive", "oci-archive"] {
        let target = dir.path().join(format);
        let from = format!("oci-archive:{}", source.path().display());
        let to = format!("{format}:{}:example.org/copied:{format}", target.display());
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", &from, &to])
            .output()
            .expect("apt-get install skopeo");
        assert!(output.status.success(), "{output:?}");
        let lease = containerd.lease(format).await;
        let imported = import(&containerd, &lease, &target, None).await.unwrap();
        containerd.end(&lease).await;
        assert_eq!(names(&imported), [format!("example.org/copied:{format}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_refused_and_leave_nothing() {
    let containerd = Containerd::start().await;
    let image = busybox();
    let mut unnamed = Vec::new();
    oci_archive(&mut unnamed, &[(None, &image)], None).unwrap();
    // One byte of a layer changed: of the plain one, whose text can be found.
    let mut wrong = unnamed.clone();
    let at = wrong
        .windows(12)
        .position(|bytes| bytes == b"third layer\n")
        .unwrap();
    wrong[at] ^= 1;
    let mut docker = Vec::new();
    docker_archive(&mut docker, &[(&["a:1"], &image)]).unwrap();
    let at = docker
        .windows(12)
        .position(|bytes| bytes == b"third layer\n")
        .unwrap();
    docker[at] ^= 1;
    let mut other = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    other.append_data(&mut header, "a", &b"x"[..]).unwrap();
    let other = other.into_inner().unwrap();
    let cut = unnamed[..unnamed.len() / 2].to_vec();
    for (what, bytes, name, kind) in [
        ("no name", &unnamed, None, ErrorKind::InvalidArgument),
        ("wrong layer", &wrong, Some("a:1"), ErrorKind::Corrupt),
        ("wrong docker layer", &docker, None, ErrorKind::Corrupt),
        ("another archive", &other, None, ErrorKind::InvalidArgument),
        ("cut", &cut, Some("a:1"), ErrorKind::InvalidArgument),
        (
            "no archive",
            &vec![9; 4096],
            None,
            ErrorKind::InvalidArgument,
        ),
    ] {
        let archive = compressed(bytes, Compression::None);
        let lease = containerd.lease("broken").await;
        let error = import(&containerd, &lease, archive.path(), name)
            .await
            .expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {}", error.chain());
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_ends() {
    let containerd = Containerd::start().await;
    let mut tar = Vec::new();
    oci_archive(&mut tar, &[(Some("a:1"), &busybox())], None).unwrap();
    let archive = compressed(&tar, Compression::None);
    let lease = containerd.lease("cancelled").await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = containerd
        .images()
        .import(&lease, archive.path(), None, &cancel)
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// A filesystem of 24 MiB in a file, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(24 << 20)
            .unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let disk = Self(dir);
        run(Command::new("mkfs.ext4").arg("-q").arg(&file));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&file)
            .arg(disk.path()));
        disk
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.path()));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full() {
    let disk = SmallDisk::mount();
    let dir = tempfile::Builder::new().prefix("cd").tempdir().unwrap();
    let containerd = Containerd::start_in(disk.path().join("root"), dir).await;
    // Once the download does not fit, once only what is unpacked does not.
    let zeros = LayerBuilder::new().file("zeros", 0o644, vec![0; 40 << 20]);
    let zeros = Image::builder().layer(zeros.build(Compression::Gzip).unwrap());
    for image in [
        random(2, 16 << 20, 8, Compression::None).unwrap(),
        zeros.build(),
    ] {
        let mut tar = Vec::new();
        oci_archive(&mut tar, &[(Some("a:1"), &image)], None).unwrap();
        let archive = compressed(&tar, Compression::None);
        let lease = containerd.lease("full").await;
        let error = import(&containerd, &lease, archive.path(), None)
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ResourceExhausted,
            "{}",
            error.chain()
        );
        containerd.end(&lease).await;
        containerd.assert_empty().await;
    }
    drop(containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_of_an_archive_tells_where_it_is() {
    let containerd = Containerd::start().await;
    let images = containerd.images_with(quick());
    let lease = containerd.lease("refused").await;
    let file = NamedTempFile::new().unwrap();
    for content in [&b"no archive"[..], &[0; 2048]] {
        std::fs::write(file.path(), content).unwrap();
        let cancel = CancellationToken::new();
        let refused = images.import(&lease, file.path(), None, &cancel).await;
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("the archive"), "{told}");
        assert!(!told.contains(file.path().to_str().unwrap()), "{told}");
    }
    containerd.end(&lease).await;
}
