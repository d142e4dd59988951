//! The fuzzer's way into [`magnetite_fuzz::pxe`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::pxe::check(bytes));
