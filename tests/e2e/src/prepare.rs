//! Everything that takes long and is made once.

use std::path::PathBuf;

use anyhow::Result;

use crate::guest::{self, Guest};
use crate::interrupt;
use crate::kube_build::{self, Kubernetes};
use crate::loaders::{self, Loaders};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::{apt, net};

/// What a site is made from.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The lab's folders.
    pub paths: Paths,
    /// The Kubernetes binaries.
    pub kubernetes: Kubernetes,
    /// Helm.
    pub helm: PathBuf,
    /// What machines boot.
    pub guest: Guest,
    /// Loaders for machines that this Debian has none for.
    pub loaders: Loaders,
}

/// Makes, or finds, all that a site needs. Also sweeps up after labs that were killed.
pub fn prepare(progress: &Progress) -> Result<Prepared> {
    interrupt::install();
    let paths = Paths::find()?;
    apt::ensure(progress, &paths)?;
    net::cleanup_stale(progress)?;
    let kubernetes = kube_build::kubernetes(progress, &paths)?;
    let helm = kube_build::helm(progress, &paths)?;
    let guest = guest::ensure(progress, &paths, &kubernetes.kubelet)?;
    let loaders = loaders::ensure(progress, &paths)?;
    Ok(Prepared { paths, kubernetes, helm, guest, loaders })
}
