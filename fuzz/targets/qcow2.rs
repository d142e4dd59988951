//! The fuzzer's way into [`magnetite_fuzz::qcow2`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::qcow2::check(bytes));
