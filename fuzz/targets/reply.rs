//! The fuzzer's way into [`magnetite_fuzz::reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::reply::check(bytes));
