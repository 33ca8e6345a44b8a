//! Certificate authorities beside the system's.

use reqwest::Certificate;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

/// A file of certificates has some hundred kilobytes.
const MAX_FILE: u64 = 4 << 20;

/// Certificates of authorities that are trusted beside the system's.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<Certificate>);

/// Why certificates of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificate authorities in {}: {reason}", path.display())]
pub struct UnusableAuthorities {
    path: PathBuf,
    reason: String,
}

impl Authorities {
    /// Reads a PEM file, or all files of a folder whose names end in `.pem` or `.crt`.
    ///
    /// # Errors
    /// Names the file that cannot be read or holds no certificate, or one that is damaged; or the
    /// folder without such a file.
    pub fn read(path: &Path) -> Result<Self, UnusableAuthorities> {
        let unusable = |path: &Path, reason: String| UnusableAuthorities {
            path: path.to_owned(),
            reason,
        };
        let io = |error: std::io::Error| unusable(path, error.to_string());
        if !std::fs::metadata(path).map_err(io)?.is_dir() {
            let found = read_file(path).map_err(|reason| unusable(path, reason))?;
            return Ok(found);
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let file = entry.map_err(io)?.path();
            let end = file.extension().and_then(|end| end.to_str());
            if matches!(end, Some("pem" | "crt")) {
                files.push(file);
            }
        }
        if files.is_empty() {
            let reason = "it is a folder without a file whose name ends in .pem or .crt";
            return Err(unusable(path, reason.to_owned()));
        }
        files.sort();
        let mut all = Vec::new();
        for file in files {
            all.extend(
                read_file(&file)
                    .map_err(|reason| unusable(&file, reason))?
                    .0,
            );
        }
        Ok(Self(all))
    }

    /// Takes certificates in PEM, with any text between them.
    ///
    /// # Errors
    /// Why it is not usable, such as the number of a certificate that is damaged.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, String> {
        let mut found = Vec::new();
        for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(text)) {
            let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
            let unusable = |error: String| format!("its certificate number {number}: {error}");
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| unusable(error.to_string()))?;
            let read = Certificate::from_der(&certificate);
            found.push(read.map_err(|error| unusable(error.to_string()))?);
        }
        if found.is_empty() {
            let none =
                "it holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----";
            return Err(none.to_owned());
        }
        Ok(Self(found))
    }

    pub(super) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.0.iter().cloned()
    }
}

fn read_file(path: &Path) -> Result<Authorities, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err("expected a file of at most 4 MiB".to_owned());
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    Authorities::from_pem(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_image_fixtures::Authority;

    #[test]
    fn files_and_folders_are_read_and_what_is_wrong_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let pem = |_| Authority::new().unwrap().pem().to_owned();
        let [one, other] = [0, 1].map(pem);
        let file = dir.path().join("one.pem");
        let count = |path: &Path| Authorities::read(path).unwrap().0.len();
        let refused = |path: &Path| Authorities::read(path).unwrap_err().to_string();
        assert!(
            refused(&file).contains("No such file"),
            "{}",
            refused(&file)
        );
        assert!(refused(dir.path()).contains("a folder without"));
        std::fs::write(&file, format!("# A comment\n{one}\n{other}")).unwrap();
        assert_eq!(count(&file), 2);
        std::fs::write(dir.path().join("other.crt"), &other).unwrap();
        std::fs::write(dir.path().join("README"), "no certificate").unwrap();
        assert_eq!(count(dir.path()), 3);

        let key = Authority::new().unwrap().certify("a.example").unwrap().1;
        let half = one.split_at(one.len() / 2).0;
        let damaged = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let damaged_second = format!("{one}{damaged}");
        for (text, told) in [
            ("", "holds no certificate"),
            ("hello", "holds no certificate"),
            (key.as_str(), "holds no certificate"),
            (half, "not PEM"),
            (damaged, "certificate number 1"),
            (damaged_second.as_str(), "certificate number 2"),
        ] {
            std::fs::write(&file, text).unwrap();
            for path in [&file, &dir.path().to_owned()] {
                let error = refused(path);
                assert!(error.contains(told), "{text}: {error}");
                assert!(error.contains("one.pem"), "{error}");
            }
        }
    }
}
