//! PXE's sub-options (option 43), iPXE's (175), and the values of all other options that are read.

use magnetite_wire::{
    dhcp::{OptionCode, Options},
    pxe,
};

use crate::bounded;

/// A sub-option that is found stands there with its code and length, first of its kind, and is found again when it is written
/// alone.
pub fn check(bytes: &[u8]) {
    for code in 0..=255 {
        let found = bounded(bytes, 0, || pxe::sub_option(bytes, code));
        let Some(value) = found else { continue };
        assert!(code != 0 && code != pxe::END, "a pad or the end is no sub-option");
        let len = u8::try_from(value.len()).expect("a byte of length");
        let alone = [&[code, len], value, &[pxe::END]].concat();
        assert!(bytes.windows(value.len() + 2).any(|part| alone.starts_with(part)), "it stands in the option");
        assert_eq!(pxe::sub_option(&alone, code), Some(value));
        assert_eq!(pxe::sub_option(&[&[0], bytes].concat(), code), Some(value), "after a pad");
        assert_eq!(pxe::sub_option(&[bytes, &[code, 0]].concat(), code), Some(value), "the first one counts");
        assert_eq!(pxe::sub_option(&[&[pxe::END], bytes].concat(), code), None, "nothing after the end");
    }
    classes(bytes);
}

/// RFC 3004's counted strings: either they use up the option, or it is one name.
fn classes(bytes: &[u8]) {
    let mut options = Options::default();
    options.push(OptionCode::USER_CLASS, bytes);
    let names = bounded(bytes, 80, || options.user_classes());
    let counted: Vec<u8> =
        names.iter().flat_map(|name| [&[u8::try_from(name.len()).unwrap_or(0)], name.as_slice()].concat()).collect();
    assert!(names == [bytes.to_vec()] || counted == bytes, "{names:?}");
    assert!(!names.iter().any(|name| name == b"iPXE") || options.is_ipxe(), "named, and not seen");
}
