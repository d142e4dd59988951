//! Which disk is meant. Pure.

use magnetite_api::install::DiskHints;

use crate::device::Disk;

/// Exactly one disk must be meant, and it is not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// There is none at all.
    #[error("the box has no disk that its kernel knows; does the image have the controller's driver?")]
    NoDisk,
    /// None fits.
    #[error("no disk fits spec.install.disk: {0}")]
    NoneFits(String),
    /// More than one fits.
    #[error("{fit} fit spec.install.disk, and exactly one must; narrow it by serial, wwn or byPath{others}")]
    MoreThanOne {
        /// Those that fit.
        fit: String,
        /// Those that do not, and why.
        others: String,
    },
}

/// The disk that the hints mean.
pub fn choose<'a>(disks: &'a [Disk], hints: &DiskHints) -> Result<&'a Disk, ChooseError> {
    let judged: Vec<_> = disks.iter().map(|disk| (disk, obstacle(disk, hints))).collect();
    let refused: Vec<_> =
        judged.iter().filter_map(|(disk, why)| Some(format!("{}: {}", disk.words(), why.as_ref()?))).collect();
    let fit: Vec<_> = judged.iter().filter(|(_, why)| why.is_none()).map(|(disk, _)| *disk).collect();
    match fit.as_slice() {
        [] if disks.is_empty() => Err(ChooseError::NoDisk),
        [] => Err(ChooseError::NoneFits(refused.join("; "))),
        [disk] => Ok(disk),
        several => {
            let fit: Vec<_> = several.iter().map(|disk| disk.words()).collect();
            let others =
                if refused.is_empty() { String::new() } else { format!(". Not taken: {}", refused.join("; ")) };
            Err(ChooseError::MoreThanOne { fit: fit.join(" and "), others })
        }
    }
}

/// Disks that are wiped: all that are the box's own. Removable ones are somebody's, who put them in.
pub fn in_scope(disks: &[Disk]) -> impl Iterator<Item = &Disk> {
    disks.iter().filter(|disk| !disk.removable)
}

/// Why a disk is not taken.
fn obstacle(disk: &Disk, hints: &DiskHints) -> Option<String> {
    let DiskHints { min_size_gib, max_size_gib, serial, wwn, rotational, by_path, name, model } = hints;
    let bytes = |gib: i64| u64::try_from(gib).unwrap_or(0).saturating_mul(1 << 30);
    if disk.read_only {
        return Some("it is read-only".to_owned());
    }
    if let Some(user) = disk.used_by.first() {
        return Some(format!("the running system uses it: {user}"));
    }
    let named = name.is_some() || serial.is_some() || wwn.is_some() || by_path.is_some();
    if disk.removable && !named {
        return Some("it is removable, and no hint names it".to_owned());
    }
    if let Some(gib) = min_size_gib.filter(|gib| disk.bytes < bytes(*gib)) {
        return Some(format!("it is smaller than minSizeGiB {gib}"));
    }
    if let Some(gib) = max_size_gib.filter(|gib| disk.bytes > bytes(*gib)) {
        return Some(format!("it is larger than maxSizeGiB {gib}"));
    }
    let other = |field: &str, wanted: &str, has: Option<&str>| {
        Some(format!("its {field} is {}, not {wanted}", has.unwrap_or("not known")))
    };
    if let Some(wanted) = name.as_deref().filter(|wanted| *wanted != disk.name) {
        return other("name", wanted, Some(&disk.name));
    }
    let same = |has: &Option<String>, wanted: &str| has.as_deref().is_some_and(|has| has.trim() == wanted.trim());
    if let Some(wanted) = serial.as_deref().filter(|wanted| !same(&disk.serial, wanted)) {
        return other("serial", wanted, disk.serial.as_deref());
    }
    let same = |has: &Option<String>, wanted: &str| has.as_deref().is_some_and(|has| bare_wwn(has) == bare_wwn(wanted));
    if let Some(wanted) = wwn.as_deref().filter(|wanted| !same(&disk.wwn, wanted)) {
        return other("wwn", wanted, disk.wwn.as_deref());
    }
    if let Some(wanted) = by_path.as_deref().filter(|wanted| !disk.by_path.iter().any(|has| has == wanted)) {
        return Some(format!("it is not {wanted} below /dev/disk/by-path"));
    }
    let part = |has: &str, wanted: &str| has.to_lowercase().contains(&wanted.to_lowercase());
    if let Some(wanted) = model.as_deref().filter(|wanted| !disk.model.as_deref().is_some_and(|has| part(has, wanted)))
    {
        return other("model", wanted, disk.model.as_deref());
    }
    match rotational {
        Some(wanted) if *wanted != disk.rotational => {
            Some(if disk.rotational { "it turns" } else { "it does not turn" }.to_owned())
        }
        Some(_) | None => None,
    }
}

/// A World Wide Name without what names its kind, as tools do and do not write it.
fn bare_wwn(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    ["naa.", "eui.", "t10.", "0x"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn disk(name: &str, gib: u64) -> Disk {
        Disk { name: name.to_owned(), bytes: gib << 30, sector: 512, ..Disk::default() }
    }

    fn box_of_three() -> Vec<Disk> {
        vec![
            Disk {
                serial: Some("NV-1".into()),
                wwn: Some("eui.00AA".into()),
                model: Some("Example NVMe 100".into()),
                by_path: vec!["pci-0000:01:00.0-nvme-1".into()],
                ..disk("nvme0n1", 100)
            },
            Disk { rotational: true, serial: Some("HD-2".into()), wwn: Some("naa.5000".into()), ..disk("sda", 4000) },
            Disk { removable: true, serial: Some("STICK".into()), ..disk("sdb", 32) },
        ]
    }

    #[rstest]
    #[case::turns(DiskHints { rotational: Some(true), ..DiskHints::default() }, "sda")]
    #[case::does_not_turn(DiskHints { rotational: Some(false), ..DiskHints::default() }, "nvme0n1")]
    #[case::at_least(DiskHints { min_size_gib: Some(4000), ..DiskHints::default() }, "sda")]
    #[case::at_most(DiskHints { max_size_gib: Some(100), ..DiskHints::default() }, "nvme0n1")]
    #[case::serial(DiskHints { serial: Some("HD-2".into()), ..DiskHints::default() }, "sda")]
    #[case::wwn(DiskHints { wwn: Some("0x00aa".into()), ..DiskHints::default() }, "nvme0n1")]
    #[case::by_path(DiskHints { by_path: Some("pci-0000:01:00.0-nvme-1".into()), ..DiskHints::default() }, "nvme0n1")]
    #[case::name(DiskHints { name: Some("sda".into()), ..DiskHints::default() }, "sda")]
    #[case::model(DiskHints { model: Some("nvme".into()), ..DiskHints::default() }, "nvme0n1")]
    #[case::a_stick_that_is_named(DiskHints { serial: Some("STICK".into()), ..DiskHints::default() }, "sdb")]
    fn one_is_meant(#[case] hints: DiskHints, #[case] want: &str) {
        assert_eq!(choose(&box_of_three(), &hints).expect("one").name, want);
    }

    #[test]
    fn none_and_two_are_errors_that_list_the_disks() {
        let none = DiskHints { model: Some("optane".into()), ..DiskHints::default() };
        let said = choose(&box_of_three(), &none).expect_err("none").to_string();
        for words in [
            "nvme0n1 (107.3 GB, Example NVMe 100, serial NV-1): its model is Example NVMe 100, not optane",
            "sda (4294.9 GB, serial HD-2): its model is not known, not optane",
            "sdb (34.3 GB, serial STICK): it is removable",
        ] {
            assert!(said.contains(words), "{said}");
        }
        let said = choose(&box_of_three(), &DiskHints::default()).expect_err("two").to_string();
        assert!(said.starts_with("nvme0n1 (107.3 GB") && said.contains(" and sda ("), "{said}");
        assert!(said.contains("narrow it by serial, wwn or byPath. Not taken: sdb"), "{said}");
        assert_eq!(choose(&[], &DiskHints::default()), Err(ChooseError::NoDisk));
    }

    #[test]
    fn what_is_used_or_read_only_is_never_taken_though_it_be_named() {
        let hints = DiskHints { name: Some("sda".into()), ..DiskHints::default() };
        for (disk, why) in [
            (
                Disk { used_by: vec!["mounted at /".into()], ..disk("sda", 10) },
                "the running system uses it: mounted at /",
            ),
            (Disk { read_only: true, ..disk("sda", 10) }, "it is read-only"),
        ] {
            let said = choose(&[disk], &hints).expect_err("never").to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_is_removable_is_not_wiped() {
        let names: Vec<_> = box_of_three().iter().map(|disk| disk.name.clone()).collect();
        assert_eq!(names.len(), 3);
        let disks = box_of_three();
        let scope: Vec<_> = in_scope(&disks).map(|disk| disk.name.as_str()).collect();
        assert_eq!(scope, ["nvme0n1", "sda"]);
    }
}
