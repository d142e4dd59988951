//! The fuzzer's way into [`magnetite_fuzz::transfer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::transfer::check(bytes));
