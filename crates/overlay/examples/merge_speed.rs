//! Prints how long it takes to merge 32 layers of 20,000 files in all. Needs root.
#![allow(clippy::print_stdout)]

use std::fs;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut layers = Vec::new();
    for layer in 0..32 {
        let root = dir.path().join(layer.to_string());
        for file in 0..625 {
            let parent = root.join(format!("data/{}/{}", file % 5, file % 25));
            fs::create_dir_all(&parent)?;
            // Every second name is that of another layer too.
            let unique = if file % 2 == 0 { layer } else { 0 };
            fs::write(parent.join(format!("{unique}-{file}")), vec![7; 4096])?;
        }
        layers.push(root);
    }
    rustix::fs::sync();
    let target = dir.path().join("target");
    fs::create_dir(&target)?;
    let start = Instant::now();
    let report = botstead_overlay::merge(&layers, &[], &target)?;
    println!("{:?} for {report:?}", start.elapsed());
    Ok(())
}
