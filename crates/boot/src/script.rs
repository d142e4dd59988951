//! iPXE scripts, from typed parts: words that were checked, and URLs that we made.
//!
//! Written for the oldest iPXE that is still handed out (Debian 12 ships one of 2019), so only commands that
//! it knows: no `--timeout` on `imgfetch`, no `shim`.

use crate::command_line::for_echo;

/// How often a download is tried before the machine is restarted: its links are good for minutes only,
/// and a restart gets new ones.
const TRIES: u32 = 8;

/// Boots a kernel.
///
/// `kernel` and `initrds` are URLs that we made; `arguments` were checked by [`crate::command_line::check`].
pub fn boot(title: &str, kernel: &str, initrds: &[String], arguments: &[String]) -> String {
    let mut words = vec!["kernel".to_owned(), kernel.to_owned()];
    // The EFI stub finds its initrds by these names; a BIOS kernel ignores them.
    words.extend((0..initrds.len()).map(|index| format!("initrd=initrd{index}")));
    words.extend(arguments.iter().cloned());
    let mut script = format!("#!ipxe\necho {}\nset tries:int32 0\n:fetch\nimgfree\n", for_echo(title));
    script.push_str(&words.join(" "));
    script.push_str(" || goto again\n");
    for (index, url) in initrds.iter().enumerate() {
        script.push_str(&format!("initrd --name initrd{index} {url} || goto again\n"));
    }
    script.push_str("boot || goto again\n");
    script.push_str(&format!(
        ":again\ninc tries\niseq ${{tries}} {TRIES} && goto restart ||\necho A download failed, trying again\nsleep 3\ngoto fetch\n"
    ));
    script.push_str(RESTART);
    script
}

/// Goes on to the next boot device. It ends with an error, because UEFI firmware takes success for the end of all booting and shows its menu
/// (UEFI 3.1.1; EDK2 does). A BIOS does not look.
pub fn local(title: &str) -> String {
    format!("#!ipxe\necho {}\nexit 1\n", for_echo(title))
}

/// Waits, then asks again at `url`.
pub fn wait(title: &str, why: &str, seconds: u32, url: &str) -> String {
    format!(
        "#!ipxe\necho {}\necho Waiting: {}\nset tries:int32 0\n:ask\nsleep {seconds}\nchain --replace --autofree {url} ||\ninc tries\niseq ${{tries}} {TRIES} && goto restart ||\ngoto ask\n{RESTART}",
        for_echo(title),
        for_echo(why),
    )
}

const RESTART: &str = ":restart\necho Giving up on these links, starting anew\nsleep 5\nreboot\n";
