//! Numbers of bytes, as people write them.

/// A number of bytes as Kubernetes writes quantities: 20Gi, 1.5G, 500M, 1048576. A B at the end is taken too.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size; write a number of bytes, or one with k, M, G, T, Ki, Mi, Gi or Ti: 20Gi");
    let bare = text.strip_suffix('B').unwrap_or(text);
    let digits = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u128 = match &bare[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |text: &str| {
        Some(text).filter(|text| text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    let (Some(whole), Some(decimals)) = (number(whole), number(part)) else { return Err(wrong()) };
    let (whole, decimals): (u128, u128) = (whole, decimals);
    let scale = 10_u128.pow(u32::try_from(part.len()).unwrap_or(0));
    u64::try_from(whole * unit + decimals * unit / scale).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[rstest]
    #[case("20Gi", Some(20 << 30))]
    #[case("20GiB", Some(20 << 30))]
    #[case("1.5G", Some(1_500_000_000))]
    #[case("0.5Ki", Some(512))]
    #[case("500MB", Some(500_000_000))]
    #[case("1048576", Some(1 << 20))]
    #[case("0", Some(0))]
    #[case("", None)]
    #[case("Gi", None)]
    #[case("20 Gi", None)]
    #[case("20gi", None)]
    #[case("-1", None)]
    #[case("1.", None)]
    #[case("1e3", None)]
    #[case("99999999Ti", None)]
    #[case("1.1234567890123456", None)]
    fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(super::bytes(text).ok(), bytes);
    }
}
