//! Archives byte by byte.

use tar::{EntryType, Header};

/// What a header says, valid or not.
#[derive(Clone)]
pub struct Raw {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Raw {
    pub fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
        let mut header = Header::new_ustar();
        let name = name.as_ref();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(EntryType::new(flag));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        Self {
            header,
            data: Vec::new(),
        }
    }

    pub fn file(name: &str) -> Self {
        Self::new(name, b'0').with(b"data\n")
    }

    pub fn directory(name: &str) -> Self {
        Self::new(name, b'5')
    }

    pub fn link(name: &str, flag: u8, target: &str) -> Self {
        let mut raw = Self::new(name, flag);
        raw.header.set_link_name_literal(target).unwrap();
        raw
    }

    /// With data, and the size of it.
    pub fn with(mut self, data: &[u8]) -> Self {
        self.header.set_size(data.len() as u64);
        self.data = data.to_vec();
        self
    }

    /// With something else in the header.
    pub fn set(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    /// An extended header of these records, and then this.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Vec<Raw> {
        vec![extended(b'x', records), self]
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

pub fn extended(flag: u8, records: &[(&str, &[u8])]) -> Raw {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| rest + length.to_string().len() == *length);
        data.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    Raw::new("ext", flag).with(&data)
}

/// An archive of these entries, with its end.
pub fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}
