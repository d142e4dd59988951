//! What a kernel's first bytes say of the processor that it is for.
//!
//! A kernel for another processor fails on the box, without a word that leaves it. What cannot be told is let through:
//! compressed images, and formats that are not known here.

use magnetite_api::Architecture;

/// As many bytes as are needed to tell.
pub const HEAD: usize = 4096;

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// An architecture that machines may have.
    For(Architecture),
    /// One that none has, by the name that the kernel gives it.
    Foreign(&'static str),
    /// That cannot be told.
    Unknown,
}

impl Image {
    /// What an image is that begins so.
    pub fn of(head: &[u8]) -> Self {
        // A kernel with an EFI stub is a PE image too. Of x86 that one has the word that iPXE goes by on BIOS: a 64-bit
        // kernel may bear a 32-bit stub, and both start on a 64-bit box.
        let found = bzimage(head).or_else(|| arm64_image(head)).or_else(|| pe(head)).or_else(|| elf(head));
        found.unwrap_or(Self::Unknown)
    }

    /// The name of what it is for, if that is not this architecture.
    pub fn contradicts(self, architecture: Architecture) -> Option<&'static str> {
        match self {
            Self::For(other) if other != architecture => Some(other.as_str()),
            Self::Foreign(name) => Some(name),
            Self::For(_) | Self::Unknown => None,
        }
    }
}

const X86: Image = Image::For(Architecture::X86_64);
const ARM64: Image = Image::For(Architecture::Aarch64);

fn at<const N: usize>(head: &[u8], offset: usize) -> Option<[u8; N]> {
    head.get(offset..)?.first_chunk().copied()
}

/// The setup header of the kernel's x86 boot protocol (Documentation/arch/x86/boot.rst), which iPXE, memtest and others
/// have as well.
fn bzimage(head: &[u8]) -> Option<Image> {
    (at(head, 0x1fe)? == [0x55, 0xaa] && at(head, 0x202)? == *b"HdrS").then_some(X86)
}

/// Documentation/arch/arm64/booting.rst; RISC-V's differs in its magic number alone.
fn arm64_image(head: &[u8]) -> Option<Image> {
    match &at(head, 0x38)? {
        b"ARM\x64" => Some(ARM64),
        b"RSC\x05" => Some(Image::Foreign("riscv64")),
        _ => None,
    }
}

/// PE/COFF: loaders, unified kernel images, and kernels that decompress themselves (EFI zboot).
fn pe(head: &[u8]) -> Option<Image> {
    if at(head, 0)? != *b"MZ" {
        return None;
    }
    let start = usize::try_from(u32::from_le_bytes(at(head, 0x3c)?)).ok()?;
    if at(head, start)? != *b"PE\0\0" {
        return None;
    }
    match u16::from_le_bytes(at(head, start.checked_add(4)?)?) {
        0x8664 => Some(X86),
        0xaa64 => Some(ARM64),
        0x014c => Some(Image::Foreign("32-bit x86")),
        0x01c0 | 0x01c2 | 0x01c4 => Some(Image::Foreign("32-bit arm")),
        0x5064 => Some(Image::Foreign("riscv64")),
        0x6264 => Some(Image::Foreign("loongarch64")),
        _ => None,
    }
}

/// Why bytes are no whole PE image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWhole {
    /// The headers are not there, or are another format's.
    #[error("it has no PE header")]
    Header,
    /// It says that it has more bytes than there are.
    #[error("it says that it ends at byte {says}, and has {has}")]
    Cut {
        /// Where it says that it ends.
        says: u64,
        /// How many bytes there are.
        has: u64,
    },
}

/// Whether a PE image (an EFI program) is there to its end: all of its sections, and the signatures behind them (Microsoft's PE format,
/// section table and certificate table).
///
/// # Errors
/// It is none, or it is cut short.
pub fn whole_pe(image: &[u8]) -> Result<(), NotWhole> {
    let says = pe_end(image).ok_or(NotWhole::Header)?;
    let has = image.len() as u64;
    if says > has { Err(NotWhole::Cut { says, has }) } else { Ok(()) }
}

/// The end of what a PE image says that it has. A header that is cut off itself ends nowhere.
fn pe_end(image: &[u8]) -> Option<u64> {
    if at(image, 0)? != *b"MZ" {
        return None;
    }
    let word = |offset| Some(u32::from_le_bytes(at(image, offset)?));
    let start = usize::try_from(word(0x3c)?).ok()?;
    let header = start.checked_add(24)?;
    if at(image, start)? != *b"PE\0\0" {
        return None;
    }
    let sections = u16::from_le_bytes(at(image, start.checked_add(6)?)?);
    let optional = usize::from(u16::from_le_bytes(at(image, start.checked_add(20)?)?));
    // Before the directories stand 96 bytes in the 32-bit form, 112 in the 64-bit one; the fifth is that of the certificates.
    let directories = match at(image, header)? {
        [0x0b, 0x01] => 96,
        [0x0b, 0x02] => 112,
        _ => return None,
    };
    let pair = |offset: usize| u64::from(word(offset)?).checked_add(u64::from(word(offset.checked_add(4)?)?));
    let certificates = header.checked_add(directories)?.checked_add(4 * 8)?;
    let has_certificates =
        word(header.checked_add(directories)?.checked_sub(4)?)? > 4 && optional >= directories + 5 * 8;
    let mut end = if has_certificates { pair(certificates)? } else { 0 };
    let table = header.checked_add(optional)?;
    for index in 0..usize::from(sections) {
        // Size of the raw data, then where it is: nowhere, if memory is all that the section needs.
        let data = table.checked_add(index * 40)?.checked_add(16)?;
        if word(data.checked_add(4)?)? != 0 {
            end = end.max(pair(data)?);
        }
    }
    Some(end)
}

/// ELF, which iPXE starts as Multiboot. That begins in 32 bits on any x86.
fn elf(head: &[u8]) -> Option<Image> {
    if at(head, 0)? != *b"\x7fELF" {
        return None;
    }
    match (at(head, 5)?, at(head, 0x12)?) {
        ([1], [3 | 62, 0]) => Some(X86),
        ([1], [183, 0]) => Some(ARM64),
        ([1], [40, 0]) => Some(Image::Foreign("32-bit arm")),
        ([1], [243, 0]) => Some(Image::Foreign("riscv64")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use Architecture::{Aarch64, X86_64};
    use rstest::rstest;

    use super::*;

    /// The first bytes of real files: Debian's kernels of 6.12 for x86-64 and 6.1 for arm64, and of iPXE's builds.
    #[rstest]
    #[case::linux_x86(include_bytes!("image/linux-x86_64.head"), Image::For(X86_64))]
    #[case::linux_arm64(include_bytes!("image/linux-arm64.head"), Image::For(Aarch64))]
    #[case::ipxe_lkrn(include_bytes!("image/ipxe.lkrn.head"), Image::For(X86_64))]
    #[case::ipxe_efi_x86(include_bytes!("image/snponly.efi.head"), Image::For(X86_64))]
    #[case::ipxe_efi_arm64(include_bytes!("image/ipxe-arm64.efi.head"), Image::For(Aarch64))]
    #[case::ipxe_bios_loader(include_bytes!("image/undionly.kpxe.head"), Image::Unknown)]
    #[case::gzip(b"\x1f\x8b\x08\0\0\0\0\0", Image::Unknown)]
    #[case::zstd(b"\x28\xb5\x2f\xfd", Image::Unknown)]
    #[case::web_page(b"<!DOCTYPE html>", Image::Unknown)]
    #[case::nothing(b"", Image::Unknown)]
    fn real_files(#[case] head: &[u8], #[case] image: Image) {
        assert_eq!(Image::of(head), image);
    }

    #[test]
    fn a_program_without_its_end_is_not_whole() {
        let mut whole = include_bytes!("image/snponly.efi.head").to_vec();
        assert_eq!(whole_pe(&whole), Err(NotWhole::Header), "its table of sections is longer");
        whole.resize(1024, 0);
        let says = pe_end(&whole).unwrap();
        assert_eq!(whole_pe(&whole), Err(NotWhole::Cut { says, has: 1024 }));
        assert!(says > 10_000, "{says}");
        whole.resize(usize::try_from(says).unwrap(), 0);
        assert_eq!(whole_pe(&whole), Ok(()));
        whole.pop();
        assert_eq!(whole_pe(&whole), Err(NotWhole::Cut { says, has: says - 1 }));
        for other in [&b""[..], b"MZ", b"<!DOCTYPE html>", include_bytes!("image/undionly.kpxe.head")] {
            assert_eq!(whole_pe(other), Err(NotWhole::Header));
        }
    }

    fn pe_of(machine: u16, start: u32) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..2].copy_from_slice(b"MZ");
        head[0x3c..0x40].copy_from_slice(&start.to_le_bytes());
        if let Some(there) = head.get_mut(start as usize..start as usize + 6) {
            there[..4].copy_from_slice(b"PE\0\0");
            there[4..].copy_from_slice(&machine.to_le_bytes());
        }
        head
    }

    #[rstest]
    #[case::x86_64(0x8664, 0x80, Image::For(X86_64))]
    #[case::arm64(0xaa64, 0x40, Image::For(Aarch64))]
    #[case::i386(0x14c, 0x80, Image::Foreign("32-bit x86"))]
    #[case::riscv(0x5064, 0x80, Image::Foreign("riscv64"))]
    #[case::byte_code(0xebc, 0x80, Image::Unknown)]
    #[case::header_at_the_end(0x8664, 506, Image::For(X86_64))]
    #[case::header_beyond(0x8664, 507, Image::Unknown)]
    #[case::header_far_away(0x8664, u32::MAX, Image::Unknown)]
    fn pe_images(#[case] machine: u16, #[case] start: u32, #[case] image: Image) {
        assert_eq!(Image::of(&pe_of(machine, start)), image);
    }

    #[rstest]
    #[case::x86_64(2, 62, Image::For(X86_64))]
    #[case::multiboot(1, 3, Image::For(X86_64))]
    #[case::arm64(2, 183, Image::For(Aarch64))]
    #[case::sparc(2, 43, Image::Unknown)]
    fn elf_images(#[case] class: u8, #[case] machine: u8, #[case] image: Image) {
        let mut head = [0; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        head[0x12] = machine;
        assert_eq!(Image::of(&head), image);
    }

    #[test]
    fn every_beginning_of_a_real_file_is_read_without_harm() {
        let whole = include_bytes!("image/linux-x86_64.head");
        for length in 0..whole.len() {
            let image = Image::of(&whole[..length]);
            assert!(matches!(image, Image::Unknown | X86), "{length}");
        }
    }

    /// Each code of option 93 that is answered, with four images: one is let through where it runs, or cannot be told.
    #[test]
    fn what_is_let_through_to_which_box() {
        use crate::{
            client::{
                ClientClass::{Http, Pxe},
                Request,
            },
            fleet::Identity,
        };
        let images = [
            include_bytes!("image/linux-x86_64.head").as_slice(),
            include_bytes!("image/linux-arm64.head"),
            b"\x1f\x8b\x08\0",
            &pe_of(0x5064, 0x80),
        ];
        let x86 = [true, false, true, false];
        let arm = [false, true, true, false];
        for (class, code, wanted) in [
            (Pxe, 0, x86),
            (Pxe, 7, x86),
            (Pxe, 9, x86),
            (Pxe, 11, arm),
            (Http, 15, x86),
            (Http, 16, x86),
            (Pxe, 22, arm),
            (Http, 19, arm),
        ] {
            let request =
                Request { class, arches: vec![code], ipxe: false, https: false, identity: Identity::default() };
            let platform = crate::ladder::platform(&request).unwrap();
            let through = images.map(|image| Image::of(image).contradicts(platform.architecture).is_none());
            assert_eq!(through, wanted, "code {code}");
        }
    }
}
