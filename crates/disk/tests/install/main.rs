//! Installs onto disks that fail, from images that are wrong.

mod faulty;
mod images;

use magnetite_api::{
    Sha256,
    install::{ConfigPlace, ImageFormat},
};
use magnetite_disk::{
    image::{ImageError, Qcow2Error},
    install::{InstallError, Installed, Order, install},
    marker::{self, Marker, Verdict},
    partitions::Partition,
    source::Source,
    sparse::WriteError,
    target::{BlockTarget, Target},
    wipe,
};
use proptest::prelude::*;
use rstest::rstest;

use faulty::{Broken, FaultyDisk, Fixed};
use images::{Packed, Qcow2, gzip, system, zstd};

const DISK: usize = 6 << 20;

fn order(format: ImageFormat, image: &[u8]) -> Order {
    let marker = Marker {
        machine: "3f0d2c5e-0000-4000-8000-000000000010".into(),
        intent: "created".into(),
        opened_at: 1_800_000_000,
        image: Sha256::of(image),
    };
    let place = ConfigPlace { partition_label: Some("OEM".into()), partition_type: None, path: "/config.ign".into() };
    Order { format, sector: 512, marker, config: Some(place) }
}

/// Installs; the config of the first boot is eight bytes at the beginning of its partition.
fn run(disk: &mut FaultyDisk, source: &mut dyn Source, order: &Order) -> Result<Installed, InstallError> {
    let mut at = None;
    // The disk is lent to the install: what the kernel would write meanwhile is noted, and written by what comes next to it.
    let done = install(
        disk,
        source,
        order,
        &mut |partition: &Partition| {
            at = Some(partition.start);
            Ok(())
        },
        &mut |_| {},
    );
    assert!(at.is_none_or(|at| at == images::OEM.0 * 512), "{at:?}");
    done
}

/// What the disk must hold, but for the mark.
fn holds(disk: &FaultyDisk, image: &[u8]) -> bool {
    let mark = marker::FIRST_PLACE as usize..(marker::FIRST_PLACE + marker::SIZE) as usize;
    let bytes = disk.bytes();
    bytes[..mark.start] == image[..mark.start] && bytes[mark.end..image.len()] == image[mark.end..]
}

#[rstest]
#[case::raw(ImageFormat::Raw, system())]
#[case::gzip(ImageFormat::Gzip, gzip(&system()))]
#[case::two_gzips(ImageFormat::Gzip, [gzip(&system()[..1_500_000]), gzip(&system()[1_500_000..])].concat())]
#[case::zstd(ImageFormat::Zstd, zstd(&system()))]
#[case::frames_of_zstd(ImageFormat::Zstd, [&zstd(&system()[..99_999])[..], b"\x50\x2a\x4d\x18\x03\0\0\0xyz", &zstd(&system()[99_999..])].concat())]
#[case::qcow2_v2(ImageFormat::Qcow2, Qcow2 { version: 2, cluster_bits: 16, packed: None, backwards: false }.of(&system()))]
#[case::qcow2_v3(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 16, packed: None, backwards: false }.of(&system()))]
#[case::qcow2_small(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 9, packed: None, backwards: true }.of(&system()))]
#[case::qcow2_large(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 21, packed: None, backwards: true }.of(&system()))]
#[case::qcow2_deflate(ImageFormat::Qcow2, Qcow2 { version: 2, cluster_bits: 16, packed: Some(Packed::Deflate), backwards: false }.of(&system()))]
#[case::qcow2_zstd(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 12, packed: Some(Packed::Zstd), backwards: true }.of(&system()))]
fn every_format_comes_onto_the_disk(#[case] format: ImageFormat, #[case] image: Vec<u8>) {
    let mut disk = FaultyDisk::used(DISK);
    let order = order(format, &image);
    let done = run(&mut disk, &mut Fixed(image), &order).expect("installed");
    assert_eq!(done, Installed { bytes: system().len() as u64, image: order.marker.image });
    assert!(holds(&disk, &system()) && disk.is_bootable());
    assert_eq!(marker::read(&mut disk).expect("read"), Some(order.marker.clone()));
    // What was between image and end is left as it was; a copy of the old partition table at the end is gone.
    assert!(disk.bytes()[system().len()..DISK - (1 << 20)].iter().all(|byte| *byte != 0));
    assert!(disk.bytes()[DISK - (1 << 20)..].iter().all(|byte| *byte == 0));
    // R24: whoever asks for the same, or for something older, is told that it is done.
    let found = [("vda".to_owned(), order.marker.clone())];
    let older = Marker { intent: "older".into(), opened_at: 1_700_000_000, ..order.marker.clone() };
    assert_eq!(marker::judge_all(&found, &order.marker), (Verdict::Done, Some("vda")));
    assert_eq!(marker::judge_all(&found, &older), (Verdict::Later { intent: "created".into() }, Some("vda")));
}

/// S28: one flipped byte, wherever it is, and nothing that boots is on the disk.
#[rstest]
#[case::raw(ImageFormat::Raw, system())]
#[case::gzip(ImageFormat::Gzip, gzip(&system()))]
#[case::zstd(ImageFormat::Zstd, zstd(&system()))]
#[case::qcow2(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 16, packed: None, backwards: false }.of(&system()))]
fn a_flipped_byte_leaves_nothing_that_boots(#[case] format: ImageFormat, #[case] image: Vec<u8>) {
    let order = order(format, &image);
    for at in [0, 3, 511, image.len() / 3, image.len() / 2, image.len() - 1] {
        let mut wrong = image.clone();
        wrong[at] ^= 0x10;
        let mut disk = FaultyDisk::used(DISK);
        let error = run(&mut disk, &mut Fixed(wrong), &order).expect_err("refused");
        assert!(matches!(error, InstallError::Image(ImageError::WrongSum { .. })), "byte {at}: {error:?}");
        assert!(!disk.is_bootable() && marker::read(&mut disk).expect("read").is_none(), "byte {at}");
    }
}

#[test]
fn a_stream_that_breaks_is_taken_up_where_it_broke() {
    let image = system();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let image = if format == ImageFormat::Raw {
            image.clone()
        } else {
            Qcow2 { version: 3, cluster_bits: 16, packed: None, backwards: false }.of(&image)
        };
        let mut disk = FaultyDisk::used(DISK);
        let mut source = Broken { after: image.len() / 3, image: image.clone(), opened: 0 };
        run(&mut disk, &mut source, &order(format, &image)).expect("installed");
        assert!(holds(&disk, &system()) && source.opened > 2, "{}", source.opened);
        let mut disk = FaultyDisk::used(DISK);
        let mut source = Broken { after: image.len() / 100, image: image.clone(), opened: 0 };
        let error = run(&mut disk, &mut source, &order(format, &image)).expect_err("given up");
        assert!(matches!(error, InstallError::Image(ImageError::Read(_))), "{error:?}");
        assert!(!disk.is_bootable());
    }
}

#[test]
fn a_cut_image_and_trailing_bytes_are_another_image() {
    for format in [ImageFormat::Raw, ImageFormat::Gzip, ImageFormat::Zstd] {
        let whole = match format {
            ImageFormat::Gzip => gzip(&system()),
            ImageFormat::Zstd => zstd(&system()),
            ImageFormat::Raw | ImageFormat::Qcow2 => system(),
        };
        let order = order(format, &whole);
        for image in [whole[..whole.len() - 9].to_vec(), [&whole[..], b"more"].concat()] {
            let mut disk = FaultyDisk::used(DISK);
            let error = run(&mut disk, &mut Fixed(image), &order).expect_err("refused");
            assert!(matches!(error, InstallError::Image(ImageError::WrongSum { .. })), "{format:?}: {error:?}");
            assert!(!disk.is_bootable());
        }
    }
}

/// A bomb is as long as the disk and no longer.
#[rstest]
#[case::raw(ImageFormat::Raw, vec![1; DISK + 1])]
#[case::gzip(ImageFormat::Gzip, gzip(&vec![0; DISK * 20]))]
#[case::zstd(ImageFormat::Zstd, zstd(&vec![0; DISK * 20]))]
#[case::qcow2(ImageFormat::Qcow2, Qcow2 { version: 3, cluster_bits: 16, packed: None, backwards: false }.of(&vec![0; DISK + 1]))]
fn an_image_longer_than_the_disk_is_refused(#[case] format: ImageFormat, #[case] image: Vec<u8>) {
    let mut disk = FaultyDisk::used(DISK);
    let error = run(&mut disk, &mut Fixed(image.clone()), &order(format, &image)).expect_err("refused");
    let named = matches!(
        error,
        InstallError::Image(
            ImageError::Write(WriteError::TooLong { .. }) | ImageError::Qcow2(Qcow2Error::TooLong { .. })
        )
    );
    assert!(named && !disk.is_bootable(), "{error:?}");
    let mut tiny = FaultyDisk::used(1 << 20);
    assert!(matches!(
        run(&mut tiny, &mut Fixed(image.clone()), &order(format, &image)),
        Err(InstallError::TooSmall(_))
    ));
}

/// What of a QCOW2 cannot be installed faithfully is refused by name, before the disk has any of it.
#[rstest]
#[case::backing(8, &1u64.to_be_bytes(), "a backing file")]
#[case::encrypted(32, &1u32.to_be_bytes(), "encryption")]
#[case::elsewhere(72, &4u64.to_be_bytes(), "its data in another file")]
#[case::extended(72, &16u64.to_be_bytes(), "extended L2 entries")]
#[case::corrupt(72, &2u64.to_be_bytes(), "damage that it says itself")]
#[case::unknown(72, &(1u64 << 40).to_be_bytes(), "a feature that nobody knew")]
#[case::version(4, &4u32.to_be_bytes(), "of version 4")]
#[case::cluster(20, &30u32.to_be_bytes(), "clusters are of no size")]
#[case::vast(24, &u64::MAX.to_be_bytes(), "larger than any disk")]
#[case::tables(36, &0u32.to_be_bytes(), "table of tables")]
#[case::nothing(40, &(1u64 << 50).to_be_bytes(), "points behind its own end")]
#[case::magic(0, b"RAW!", "does not begin as a QCOW2")]
fn a_hostile_qcow2_is_refused_by_name(#[case] at: usize, #[case] bytes: &[u8], #[case] words: &str) {
    let mut image = Qcow2 { version: 3, cluster_bits: 16, packed: None, backwards: false }.of(&system());
    image[at..at + bytes.len()].copy_from_slice(bytes);
    let mut disk = FaultyDisk::used(DISK);
    let error = run(&mut disk, &mut Fixed(image.clone()), &order(ImageFormat::Qcow2, &image)).expect_err("refused");
    let InstallError::Image(ImageError::Qcow2(error)) = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(words), "{error}");
    assert!(!disk.is_bootable());
}

#[test]
fn an_image_must_fit_the_sectors_and_have_the_partition() {
    let image = system();
    let order = order(ImageFormat::Raw, &image);
    let mut disk = FaultyDisk::used(DISK);
    let other = Order { sector: 4096, ..order.clone() };
    let error = run(&mut disk, &mut Fixed(image.clone()), &other).expect_err("refused");
    assert!(error.to_string().contains("does not fit this disk") && !disk.is_bootable());
    let place = ConfigPlace { partition_label: Some("ROOT".into()), ..order.config.clone().expect("a place") };
    let error = run(&mut disk, &mut Fixed(image), &Order { config: Some(place), ..order }).expect_err("refused");
    let source = std::error::Error::source(&error).expect("a source").to_string();
    assert!(
        source.contains("no partition of the image has the label \"ROOT\"") && source.contains("\"OEM\""),
        "{source}"
    );
    assert!(!disk.is_bootable());
}

/// An image that uses the last of its first MiB is marked near the disk's end, and one that uses both is refused.
#[test]
fn the_mark_keeps_out_of_the_image_s_way() {
    let mut image = system();
    image[(1 << 20) - 10] = 7;
    let order = order(ImageFormat::Raw, &image);
    let mut disk = FaultyDisk::used(DISK);
    run(&mut disk, &mut Fixed(image.clone()), &order).expect("installed");
    assert_eq!(disk.bytes()[..image.len()], image[..]);
    assert_eq!(marker::read(&mut disk).expect("read"), Some(order.marker.clone()));
    image.resize(DISK, 1);
    let full = Order { marker: Marker { image: Sha256::of(&image), ..order.marker.clone() }, ..order };
    let mut disk = FaultyDisk::used(DISK);
    assert!(matches!(run(&mut disk, &mut Fixed(image), &full), Err(InstallError::NoRoom)));
    assert!(!disk.is_bootable());
}

/// R8: the power fails at every step there is, and what was not synced got there or not by chance. What boots is whole; what is not marked is
/// installed anew under the same intent, and then it is whole and marked.
#[test]
fn a_power_cut_at_any_moment_leaves_nothing_half() {
    let image = system();
    let order = order(ImageFormat::Raw, &image);
    let mut steps = 0;
    loop {
        let mut whole = false;
        for seed in 0..8u64 {
            let mut disk = FaultyDisk::used(DISK);
            disk.fuel = steps;
            whole = run(&mut disk, &mut Fixed(image.clone()), &order).is_ok();
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ steps as u64;
            let mut disk = disk.after_power_cut(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match seed {
                    0 => false,
                    1 => true,
                    _ => state >> 63 == 1,
                }
            });
            let untouched = disk.bytes() == FaultyDisk::used(DISK).bytes();
            let begun = steps > 0 && disk.bytes()[..512] != FaultyDisk::used(DISK).bytes()[..512];
            if disk.is_bootable() && begun && !untouched {
                assert!(holds(&disk, &image), "after {steps} steps, seed {seed}");
            }
            let marked = marker::read(&mut disk).expect("read");
            assert!(marked.is_none() || holds(&disk, &image), "marked and not whole after {steps} steps, seed {seed}");
            if marked.is_none() {
                run(&mut disk, &mut Fixed(image.clone()), &order).expect("installed the second time");
                assert!(holds(&disk, &image) && disk.is_bootable());
                assert_eq!(marker::read(&mut disk).expect("read"), Some(order.marker.clone()));
            }
        }
        if whole {
            break;
        }
        steps += 1;
    }
    assert!(steps > 15, "only {steps} steps");
}

/// R8: a hundred boots from the network after an install: one install.
#[test]
fn a_hundred_boots_install_once() {
    let image = system();
    let order = order(ImageFormat::Raw, &image);
    let (mut disk, mut installs) = (FaultyDisk::used(DISK), 0);
    for _ in 0..100 {
        let found: Vec<_> =
            marker::read(&mut disk).expect("read").into_iter().map(|marker| ("vda".to_owned(), marker)).collect();
        if marker::judge_all(&found, &order.marker).0 == Verdict::Install {
            run(&mut disk, &mut Fixed(image.clone()), &order).expect("installed");
            installs += 1;
        }
    }
    assert_eq!(installs, 1);
}

#[test]
fn a_wiped_disk_reads_as_zeros_and_one_that_lies_is_found_out() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), FaultyDisk::used(DISK).bytes()).expect("written");
    let mut target = BlockTarget::open(file.path()).expect("opened");
    let wiped = wipe::zero(&mut target, &mut |_| {}).expect("wiped");
    assert!(wiped.verified >= 2 << 20, "{wiped:?}");
    assert!(std::fs::read(file.path()).expect("read").iter().all(|byte| *byte == 0));

    struct Liar(FaultyDisk);
    impl Target for Liar {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.0.read_at(offset, buffer)
        }
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
            self.0.write_at(offset, bytes)
        }
        fn zero(&mut self, offset: u64, length: u64) -> std::io::Result<magnetite_api::install::WipeMethod> {
            let done = self.0.zero(offset, length)?;
            self.0.write_at(3 << 20, &[1; 200_000])?;
            Ok(done)
        }
        fn sync(&mut self) -> std::io::Result<()> {
            self.0.sync()
        }
    }
    let error = wipe::zero(&mut Liar(FaultyDisk::used(DISK)), &mut |_| {}).expect_err("found out");
    assert!(matches!(error, wipe::WipeError::NotZero { .. }), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an image is made of, and however it is packed: the disk is the image.
    #[test]
    fn what_is_installed_is_the_image(
        runs in prop::collection::vec((0usize..200_000, any::<u8>()), 1..30),
        format in prop::sample::select(vec![ImageFormat::Raw, ImageFormat::Gzip, ImageFormat::Zstd, ImageFormat::Qcow2]),
        version in 2u32..=3, cluster_bits in 9u32..=18, packed in any::<bool>(), backwards in any::<bool>(),
    ) {
        let mut image = system();
        for (length, byte) in runs {
            image.extend(std::iter::repeat_n(byte, length));
        }
        image.truncate(DISK - (256 << 10));
        let packed = packed.then_some(if version == 3 { Packed::Zstd } else { Packed::Deflate });
        let file = match format {
            ImageFormat::Raw => image.clone(),
            ImageFormat::Gzip => gzip(&image),
            ImageFormat::Zstd => zstd(&image),
            ImageFormat::Qcow2 => Qcow2 { version, cluster_bits, packed, backwards }.of(&image),
        };
        let mut disk = FaultyDisk::used(DISK);
        let order = order(format, &file);
        run(&mut disk, &mut Fixed(file), &order).expect("installed");
        prop_assert!(holds(&disk, &image));
    }
}

/// QEMU's own images, whatever it makes them of. `cargo test -p magnetite-disk --test install -- --ignored`.
#[test]
#[ignore = "needs qemu-img"]
fn what_qemu_makes_is_installed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (raw, made) = (folder.path().join("raw"), folder.path().join("qcow2"));
    let mut image = system();
    image.resize(5 << 20, 0);
    std::fs::write(&raw, &image).expect("written");
    for options in [
        &["-o", "compat=0.10"][..],
        &["-o", "compat=1.1,cluster_size=4k"],
        &["-o", "cluster_size=2M"],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-W", "-m", "8"],
        &["-S", "0"],
    ] {
        let mut command = std::process::Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "qcow2"]).args(options).arg(&raw).arg(&made);
        assert!(command.status().expect("qemu-img runs").success());
        let file = std::fs::read(&made).expect("read");
        let mut disk = FaultyDisk::used(DISK);
        let order = order(ImageFormat::Qcow2, &file);
        run(&mut disk, &mut Fixed(file), &order).expect("installed");
        assert!(holds(&disk, &image), "{options:?}");
    }
}

/// The config of the first boot, by the kernel's own file systems, in a partition of a disk that has no partition table yet.
#[test]
#[ignore = "needs root, loop devices, mkfs.vfat and mkfs.ext4"]
fn a_config_comes_into_its_partition() {
    use magnetite_disk::config;
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, one) = (folder.path().join("disk"), folder.path().join("one"));
    let known = std::fs::read_to_string("/proc/filesystems").expect("read");
    for tool in [&["mkfs.ext4", "-q"][..], &["mkfs.vfat"]] {
        // Not every kernel that runs tests has both.
        if !known.contains(tool[0].trim_start_matches("mkfs.")) {
            continue;
        }
        let partition = Partition { label: "OEM".into(), kind: String::new(), start: 3 << 20, length: 16 << 20 };
        std::fs::write(&one, vec![0; partition.length as usize]).expect("written");
        let mut make = std::process::Command::new(tool[0]);
        assert!(make.args(&tool[1..]).arg(&one).status().expect("it runs").success());
        let mut bytes = vec![0; 3 << 20];
        bytes.extend(std::fs::read(&one).expect("read"));
        bytes.resize(24 << 20, 0);
        std::fs::write(&disk, &bytes).expect("written");
        let place = folder.path().join("place");
        for text in [&b"first"[..], b"second"] {
            config::put(&disk, &partition, "/ignition/config.ign", text, &place).expect("written");
        }
        assert_eq!(std::fs::read_dir(&place).expect("listed").count(), 0, "unmounted");
        let bytes = std::fs::read(&disk).expect("read");
        assert!(bytes.windows(6).any(|part| part == b"second"), "{tool:?}");
        assert!(bytes[..3 << 20].iter().all(|byte| *byte == 0), "nothing before it was touched");
        let elsewhere = Partition { start: 0, ..partition };
        let error = config::put(&disk, &elsewhere, "/x", b"x", &place).expect_err("nothing is there");
        assert!(error.to_string().contains("could not be mounted"), "{error}");
    }
}
