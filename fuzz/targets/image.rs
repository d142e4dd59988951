//! The fuzzer's way into [`magnetite_fuzz::image`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::image::check(bytes));
