//! What must not be on a screen: capabilities, and what looks secret in a config.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

const MASKED: &str = "(masked)";

/// Text without the capabilities in the links of a machine, and without its id.
pub fn capabilities(text: &str, machine_id: &str) -> String {
    let mut text = text.to_owned();
    for kind in ["m", "a"] {
        let prefix = format!("/{kind}/{machine_id}/");
        let parts: Vec<_> = text.split(&prefix).map(str::to_owned).collect();
        let mut out = String::new();
        for (index, part) in parts.iter().enumerate() {
            if index == 0 {
                out.push_str(part);
                continue;
            }
            let end =
                part.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(part.len());
            out.push_str(&prefix);
            out.push_str("(capability)");
            out.push_str(part.get(end..).unwrap_or_default());
        }
        text = out;
    }
    // Another boot server's key makes another id.
    text.replace(machine_id, "(id)")
}

/// Text without the values of assignments whose name looks secret, such as `API_TOKEN=…`.
pub fn assignments(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(assignment).collect()
}

fn assignment(word: &str) -> String {
    let body = word.trim_end();
    let space = word.get(body.len()..).unwrap_or_default();
    let mut begin = 0;
    for (at, _) in body.match_indices('=') {
        if is_secret_name(body.get(begin..at).unwrap_or_default()) {
            return format!("{}={MASKED}{space}", body.get(..at).unwrap_or_default());
        }
        begin = at + 1;
    }
    word.to_owned()
}

/// The text of an installer or of cloud-init without what looks secret in its lines: hashes of passwords, and what follows a name that looks secret
/// in YAML (`password: …`), kickstart (`rootpw …`) and preseed (`d-i passwd/root-password password …`).
pub fn lines(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    let body = line.trim_end();
    let mut at = 0;
    for word in body.split([' ', '\t']) {
        let end = at + word.len();
        let names = (is_secret_name(word) || word == "rootpw") && !word.contains('=') && end < body.len();
        let hidden = if is_hash(word) { Some(at) } else { names.then_some(end) };
        if let Some((head, _)) = hidden.and_then(|at| body.split_at_checked(at)) {
            let break_ = line.get(body.len()..).unwrap_or_default();
            return format!("{} {MASKED}{break_}", head.trim_end());
        }
        at = end + 1;
    }
    line.to_owned()
}

/// A password's hash, as crypt(5) writes it: `$6$…`.
fn is_hash(word: &str) -> bool {
    let mut parts = word.trim_matches(['"', '\'', ',']).split('$');
    parts.next() == Some("") && parts.next().is_some_and(|id| !id.is_empty() && id.len() <= 8) && parts.next().is_some()
}

/// An Ignition config for a person: data URLs as their text, and what looks secret masked.
pub fn config(mut config: Value, machine_id: &str) -> Value {
    for file in items(&mut config, "/storage/files") {
        let path = file.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
        // Without a mode Ignition takes 0644.
        let mode = file.get("mode").and_then(Value::as_u64).unwrap_or(0o644);
        let secret = mode & 0o044 == 0 || is_secret_path(&path);
        if let Some(shown) = file.get_mut("mode") {
            // As people write it; JSON knows no octal numbers.
            *shown = format!("{mode:04o}").into();
        }
        if let Some(contents) = file.get_mut("contents") {
            resource(contents, secret, machine_id);
        }
        for contents in items(file, "/append") {
            resource(contents, secret, machine_id);
        }
    }
    for user in items(&mut config, "/passwd/users") {
        hide(user, "passwordHash");
    }
    for disk in items(&mut config, "/storage/luks") {
        hide(disk, "keyFile");
    }
    let mut units: Vec<_> = items(&mut config, "/systemd/units").collect();
    for unit in &mut units {
        text_of(unit, machine_id);
        for part in items(unit, "/dropins") {
            text_of(part, machine_id);
        }
    }
    for list in ["/ignition/config/merge", "/ignition/security/tls/certificateAuthorities"] {
        for contents in items(&mut config, list) {
            hide_headers(contents);
        }
    }
    config
}

fn items<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

fn hide(value: &mut Value, key: &str) {
    if let Some(value) = value.get_mut(key) {
        *value = MASKED.into();
    }
}

fn hide_headers(contents: &mut Value) {
    for header in items(contents, "/httpHeaders") {
        hide(header, "value");
    }
}

fn text_of(unit: &mut Value, machine_id: &str) {
    if let Some(Value::String(text)) = unit.get_mut("contents") {
        *text = assignments(&capabilities(text, machine_id));
    }
}

fn resource(contents: &mut Value, secret: bool, machine_id: &str) {
    hide_headers(contents);
    let packed = contents.get("compression").and_then(Value::as_str).is_some_and(|how| !how.is_empty());
    let Some(Value::String(source)) = contents.get_mut("source") else { return };
    *source = match data(source) {
        Some(bytes) if secret => format!("{MASKED} {} bytes", bytes.len()),
        None if secret => MASKED.to_owned(),
        Some(bytes) => match String::from_utf8(bytes) {
            Ok(text) if !packed => assignments(&capabilities(&text, machine_id)),
            Ok(text) => format!("(packed) {} bytes", text.len()),
            Err(error) => format!("(no text) {} bytes", error.as_bytes().len()),
        },
        None => capabilities(source, machine_id),
    };
}

/// The bytes of a data URL (RFC 2397).
fn data(url: &str) -> Option<Vec<u8>> {
    let (kind, payload) = url.strip_prefix("data:")?.split_once(',')?;
    let bytes = percent(payload);
    if kind.ends_with(";base64") { STANDARD.decode(bytes).ok() } else { Some(bytes) }
}

fn percent(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octet = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let octet = octet.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        out.push(octet.unwrap_or(*first));
        rest = if octet.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    out
}

/// Names that people give to what nobody else should read.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["secret", "token", "password", "passwd", "passphrase", "credential", "private", "apikey", "api_key"];
    words.iter().any(|word| name.contains(word))
}

fn is_secret_path(path: &str) -> bool {
    let name = path.to_ascii_lowercase();
    let ends =
        [".key", ".p12", ".pfx", ".jks", ".keytab", "/id_rsa", "/id_ed25519", "/id_ecdsa", "/shadow", "_host_key"];
    is_secret_name(&name) || name.contains("kubeconfig") || ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn capabilities_are_not_shown() {
        let text = "chain http://10.0.0.1:8080/m/0011/AbC-1_x/x86_64/boot.ipxe\nS=https://10.0.0.1:8443/a/0011/zz9\nX=/m/2233/own";
        let masked = capabilities(text, "0011");
        assert_eq!(
            masked,
            "chain http://10.0.0.1:8080/m/(id)/(capability)/x86_64/boot.ipxe\nS=https://10.0.0.1:8443/a/(id)/(capability)\nX=/m/2233/own"
        );
    }

    #[rstest]
    #[case("console=ttyS0 api_token=abc x", "console=ttyS0 api_token=(masked) x")]
    #[case("Environment=DB_PASSWORD=a=b\nUser=x\n", "Environment=DB_PASSWORD=(masked)\nUser=x\n")]
    #[case("a == b", "a == b")]
    fn assignments_that_look_secret(#[case] text: &str, #[case] masked: &str) {
        assert_eq!(assignments(text), masked);
    }

    #[rstest]
    #[case("rootpw --iscrypted $6$abc$def\n", "rootpw (masked)\n")]
    #[case("    passwd: $y$j9T$q\n", "    passwd: (masked)\n")]
    #[case("  password: \"hello you\"", "  password: (masked)")]
    #[case("d-i passwd/root-password-crypted password $6$q$q", "d-i passwd/root-password-crypted (masked)")]
    #[case("- echo '$6$q$q' > /x", "- echo (masked)")]
    #[case("clearpart --all", "clearpart --all")]
    #[case("  ssh_pwauth: false\n\n", "  ssh_pwauth: false\n\n")]
    #[case("write_files: # costs $5", "write_files: # costs $5")]
    fn lines_of_an_installer(#[case] text: &str, #[case] masked: &str) {
        assert_eq!(lines(text), masked);
    }

    /// A file's path and mode, and what is shown of its contents.
    #[rstest]
    #[case("/etc/hostname", Some(0o644), "hello x")]
    #[case("/etc/hostname", None, "hello x")]
    #[case("/etc/hostname", Some(0o600), "(masked) 7 bytes")]
    #[case("/etc/hostname", Some(0o640), "hello x")]
    #[case("/etc/app/secret.conf", Some(0o644), "(masked) 7 bytes")]
    #[case("/etc/ssl/server.key", Some(0o644), "(masked) 7 bytes")]
    #[case("/var/lib/kubelet/kubeconfig", None, "(masked) 7 bytes")]
    fn contents(#[case] path: &str, #[case] mode: Option<u32>, #[case] shown: &str) {
        for source in ["data:,hello%20x", "data:;base64,aGVsbG8geA==", "data:text/plain;base64,aGVsbG8geA=="] {
            let mut file = json!({"path": path, "contents": {"source": source}});
            if let Some(mode) = mode {
                file["mode"] = mode.into();
            }
            let masked = config(json!({"storage": {"files": [file]}}), "0011");
            assert_eq!(masked["storage"]["files"][0]["contents"]["source"], shown, "{source}");
            let octal = mode.map_or(Value::Null, |mode| format!("{mode:04o}").into());
            assert_eq!(masked["storage"]["files"][0].get("mode").unwrap_or(&Value::Null), &octal);
        }
    }

    #[test]
    fn everything_else_that_is_secret() {
        let masked = config(
            json!({
                "passwd": {"users": [{"name": "core", "passwordHash": "$y$j9T$x", "sshAuthorizedKeys": ["ssh-ed25519 AAAA"]}]},
                "storage": {
                    "luks": [{"name": "data", "keyFile": {"source": "data:,k"}}],
                    "files": [{"path": "/a", "contents": {"source": "https://x/a", "httpHeaders": [{"name": "Authorization", "value": "Bearer q"}]}}],
                },
                "systemd": {"units": [{"name": "a.service", "contents": "Environment=TOKEN=q\n", "dropins": [{"name": "b", "contents": "X_SECRET=q\n"}]}]},
            }),
            "0011",
        );
        let text = masked.to_string();
        assert!(!text.contains('q') && !text.contains("$y$") && !text.contains("data:,k"), "{text}");
        assert!(text.contains("ssh-ed25519 AAAA"), "what is public stays: {text}");
    }
}
