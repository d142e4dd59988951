//! Container images without a registry: docker-archives with a static busybox in them, loaded by
//! the guest at boot.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::path;
use crate::proc::Cmd;
use crate::stamp::sha256_hex;

/// Commands that the image has. All of them are busybox.
const APPLETS: &[&str] = &[
    "sh", "sleep", "echo", "cat", "date", "httpd", "wget", "ls", "ps", "id", "nslookup", "hostname", "ip", "ping",
    "true",
];

/// Writes `out`: one image under several `names`, that runs `command` unless told otherwise.
pub(super) fn write(out: &Path, names: &[&str], busybox: &Path, command: &str) -> Result<()> {
    let dir = out.with_extension("making");
    let bin = dir.join("layer/bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::copy(busybox, bin.join("busybox")).context("copy busybox")?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    let layer = dir.join("layer.tar");
    tar(&dir.join("layer"), &layer, &["."])?;
    let digest = sha256_hex(&std::fs::read(&layer)?);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/bin/sh", "-c", command], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [],
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"] }]);
    std::fs::write(dir.join("config.json"), config.to_string())?;
    std::fs::write(dir.join("manifest.json"), manifest.to_string())?;
    tar(&dir, out, &["manifest.json", "config.json", "layer.tar"])?;
    std::fs::remove_dir_all(&dir).context("remove what the image was made from")
}

fn tar(dir: &Path, out: &Path, members: &[&str]) -> Result<()> {
    Cmd::new("tar")
        .args(["--owner=0", "--group=0", "--mtime=@0", "--sort=name", "-C", &path(dir), "-cf", &path(out)])
        .args(members.iter().copied())
        .run()?;
    Ok(())
}
