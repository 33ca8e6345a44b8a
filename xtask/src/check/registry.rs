//! A real registry on a loopback port that the server may reach, with a small image that can run a
//! shell.

use crate::{command, image};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the check's commands use.
const APPLETS: &[&str] = &["sh", "cat", "echo", "ls", "sleep"];

/// A registry without sign-in that ends, with its storage, when dropped.
pub(super) struct Registry {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    pub(super) fn start(address: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        TcpListener::bind(address)
            .map(drop)
            .with_context(|| format!("another program uses {address}, where the registry goes"))?;
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
                storage.display()
            ),
        )?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start docker-registry")?;
        let mut registry = Self {
            child,
            address,
            folder,
        };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("docker-registry ended ({status})");
            }
            if Instant::now() > deadline {
                bail!("docker-registry does not answer at {}", self.address);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Pushes the image and gives its reference.
    pub(super) fn push_busybox(&self) -> Result<String> {
        let busybox = command::find("busybox").context("there is no busybox")?;
        let rootfs = self.folder.path().join("rootfs.tar");
        write_rootfs(&busybox, &rootfs).context("cannot write the image's files")?;
        let archive = self.folder.path().join("image.tar");
        let reference = format!("{}/botstead/check:latest", self.address);
        image::write_archive(&rootfs, &archive, &reference)?;
        command::capture(
            Command::new("skopeo")
                .args([
                    "copy",
                    "--quiet",
                    "--insecure-policy",
                    "--dest-tls-verify=false",
                ])
                .arg(format!("oci-archive:{}", archive.display()))
                .arg(format!("docker://{reference}")),
            "apt-get install --reinstall skopeo",
        )?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; waiting takes its zombie away either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_rootfs(busybox: &Path, rootfs: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(File::create(rootfs)?);
    for folder in [
        "bin/", "etc/", "data/", "tmp/", "dev/", "proc/", "sys/", "run/",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, folder, std::io::empty())?;
    }
    let mut add = |path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
    };
    add("bin/busybox", 0o755, &fs::read(busybox)?)?;
    add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    add("etc/group", 0o644, b"root:x:0:\n")?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_pushed_image_can_be_read_back_and_nothing_stays() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let registry = Registry::start(address)
            .expect("this test needs: apt-get install docker-registry skopeo busybox-static");
        let reference = registry.push_busybox().unwrap();
        let json = command::capture(
            Command::new("skopeo")
                .args(["inspect", "--config", "--tls-verify=false"])
                .arg(format!("docker://{reference}")),
            "skopeo",
        )
        .unwrap();
        assert!(json.contains("/usr/bin:/sbin:/bin"), "{json}");
        let (address, folder) = (registry.address, registry.folder.path().to_owned());
        drop(registry);
        assert!(TcpStream::connect(address).is_err());
        assert!(!folder.exists());
    }
}
