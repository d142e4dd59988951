//! The first bytes of a file that a Profile names for a kernel: fetched from wherever it said, and judged before they are summed.

use magnetite_api::Architecture;
use magnetite_boot::image::{HEAD, Image, whole_pe};

/// What is told of an image needs no memory, is in its head, and fits at most one architecture; what is let through in the whole is not
/// refused for being cut short.
pub fn check(bytes: &[u8]) {
    let image = crate::bounded(bytes, 0, || Image::of(bytes));
    assert_eq!(Image::of(bytes.get(..HEAD).unwrap_or(bytes)), image, "what follows the head is not looked at");
    if whole_pe(bytes).is_ok() {
        let longer = [bytes, b"more"].concat();
        assert!(whole_pe(&longer).is_ok(), "what follows the end is not looked at");
    }
    let fits = |architecture| image.contradicts(architecture).is_none();
    let (x86, arm) = (fits(Architecture::X86_64), fits(Architecture::Aarch64));
    match image {
        Image::For(Architecture::X86_64) => assert!(x86 && !arm),
        Image::For(Architecture::Aarch64) => assert!(arm && !x86),
        Image::Foreign(name) => assert!(!x86 && !arm && !name.is_empty()),
        Image::Unknown => assert!(x86 && arm),
    }
}
