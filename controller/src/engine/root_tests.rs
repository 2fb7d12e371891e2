//! Users who become root, on a real OpenSSH server with users of its own.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::Secret;
use anemos_proto::hello::{Hello, Role};
use tokio::time::Instant;

use super::check::{Checks, NotRoot, check};
use super::packing::{PACKINGS, StageBinary};
use super::password::Passwords;
use super::root::{self, Questions, Reply, Way};
use super::said;
use super::stage::{Stage, StageError};
use super::terminal::{self, Refused};
use crate::config::Become;
use crate::ssh::tests::{Answers, Server};
use crate::ssh::{Exit, Output, Passphrases};

/// Makes the users in the server's own copy of /etc.
///
/// | user | becomes root |
/// |---|---|
/// | `free` | by sudo; its shell's start-up file is not quiet |
/// | `inc`, `infish` | by sudo; login shells csh and fish |
/// | `wantstty` | by sudo, which wants a terminal |
/// | `pw`, `ttypw` | by sudo with a password, and a lecture; the second from a terminal only |
/// | `doas` | by doas |
/// | `doaspw`, `doaskeep` | by doas with a password; the second needs it once in a while only |
/// | `doascsh`, `doasfish` | the same as the first; login shells csh and fish |
/// | `nobodys` | not |
const USERS: &str = r#"
set -e
mount -t tmpfs none /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for dir in /var/lib /home; do mount -t tmpfs none $dir; done
rm -rf /etc/sudoers.d/* /etc/doas.conf /etc/nologin
add() { useradd -m -s "$2" "$1"; }
for user in free wantstty pw ttypw doas doaspw doaskeep nobodys; do add $user /bin/bash; done
add inc /usr/bin/tcsh
add infish /usr/bin/fish
add doascsh /usr/bin/tcsh
add doasfish /usr/bin/fish
add noshell /usr/sbin/nologin
add less /bin/rbash
add git "$(command -v git-shell)"
for user in free wantstty doas nobodys inc infish noshell less git; do usermod -p "*" $user; done
printf "pw:two words\nttypw:two words\nnobodys:two words\nroot:roots own\n" | chpasswd
printf "doaspw:t\003wo w\303\266rds\ndoaskeep:two words\ndoascsh:two words\ndoasfish:two words\n" | chpasswd
printf "echo Welcome\nprintf \"careful: \" >&2\n" >/home/free/.bashrc
cat >/etc/sudoers.d/test <<END
Defaults lecture=always
Defaults:wantstty requiretty
Defaults:ttypw requiretty
free,wantstty,inc,infish ALL=(ALL) NOPASSWD: ALL
pw,ttypw ALL=(ALL) ALL
END
chmod 440 /etc/sudoers.d/test
printf "permit %s as root\n" "nopass doas" doaspw "persist doaskeep" doascsh doasfish >/etc/doas.conf
set +e
"#;

/// What the tests here need besides OpenSSH.
const TOOLS: [&str; 5] = ["sudo", "doas", "tcsh", "fish", "git-shell"];

fn is_on_path(tool: &str) -> bool {
    std::env::var("PATH").unwrap().split(':').any(|dir| Path::new(dir).join(tool).exists())
}

/// Whether they can be run here. If not, it says so past libtest, which shows nothing of a test that passes.
fn can_run() -> bool {
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !is_on_path(tool)).collect();
    let root = rustix::process::getuid().is_root();
    assert!(!root || missing.is_empty(), "tests/install-tools.sh installs {missing:?}");
    if !root {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "skipped: {test}: only root can make users, in a mount namespace");
    }
    root
}

const BUILD: &str = "a build";

/// A server with these users.
fn server(more: &str) -> Server {
    let server = Server::prepared(USERS, &["ed25519"], more);
    // The keys are read by the users.
    for (name, mode) in [(".", 0o711), ("authorized", 0o644)] {
        std::fs::set_permissions(server.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    server
}

/// Stands in for the stage: writes down who runs it and what it knows of the connection, and shakes hands.
fn stage(server: &Server) -> StageBinary {
    let octal = |text: String, byte: &u8| format!("{text}\\{byte:03o}");
    let hello = Hello::new(Role::Stage, BUILD).encode().iter().fold(String::new(), octal);
    let seen = server.path("seen");
    let text = format!(
        "#!/bin/sh\necho \"$(id -u) ${{SSH_CONNECTION##* }} $PATH $PWD\" >{}\nprintf '{hello}'\ncat >/dev/null\n\
         rm -rf \"$3\"\n",
        seen.display()
    );
    let how = PACKINGS.iter().find(|packing| packing.name == "gz").unwrap();
    let mut gzip = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let packed = gzip.wait_with_output().unwrap().stdout;
    StageBinary::new(text.as_bytes(), vec![(how, packed.into())], std::env::consts::ARCH)
}

async fn started(server: &Server, user: &str, way: &Way) -> Result<Option<Become>, StageError> {
    let session = server.session_of(user).await;
    let started = Stage::start(&session, &stage(server), BUILD, way).await;
    session.close().await;
    started.map(|stage| stage.becomes)
}

/// One that a terminal for people would not pass on as it is.
const DOASPW: &str = "t\u{3}wo wörds";

fn with(by: Become, password: &str) -> Way {
    Way::Password(by, Secret::new(password.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stage_runs_as_root_whoever_logs_in() {
    if !can_run() {
        return;
    }
    let server = server("");
    let port = server.port();
    for (user, way, by) in [
        ("free", Way::Free(None), Become::Sudo),
        ("free", Way::Free(Some(Become::Sudo)), Become::Sudo),
        ("inc", Way::Free(None), Become::Sudo),
        ("infish", Way::Free(None), Become::Sudo),
        ("wantstty", Way::Free(None), Become::Sudo),
        ("doas", Way::Free(None), Become::Doas),
        ("doas", Way::Free(Some(Become::Doas)), Become::Doas),
        ("pw", with(Become::Sudo, "two words"), Become::Sudo),
        ("ttypw", with(Become::Sudo, "two words"), Become::Sudo),
        ("doaspw", with(Become::Doas, DOASPW), Become::Doas),
        ("doaskeep", with(Become::Doas, "two words"), Become::Doas),
        ("doascsh", with(Become::Doas, "two words"), Become::Doas),
        ("doasfish", with(Become::Doas, "two words"), Become::Doas),
        // They need none, so they are not given it.
        ("free", with(Become::Sudo, "another"), Become::Sudo),
        ("doas", with(Become::Doas, "another"), Become::Doas),
        ("nobodys", with(Become::Su, "roots own"), Become::Su),
        ("inc", with(Become::Su, "roots own"), Become::Su),
    ] {
        assert_eq!(started(&server, user, &way).await, Ok(Some(by)), "{user} {way:?}");
        let seen = std::fs::read_to_string(server.path("seen")).unwrap();
        assert_eq!(seen, format!("0 {port} {} /\n", root::PATH), "{user} {way:?}");
        std::fs::remove_file(server.path("seen")).unwrap();
    }
    assert_eq!(started(&server, "root", &Way::Free(Some(Become::Sudo))).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_user_from_becoming_root_is_told() {
    if !can_run() {
        return;
    }
    let server = server("");
    let why = async |user, way: Way| started(&server, user, &way).await.unwrap_err();
    for (user, by, words) in [
        ("pw", Become::Sudo, "a password is required"),
        ("ttypw", Become::Sudo, "a password is required"),
        ("doaspw", Become::Doas, "Authentication required"),
        ("doaskeep", Become::Doas, "Authentication required"),
    ] {
        let needs = why(user, Way::Free(Some(by))).await;
        let StageError::Password(how, said) = needs else { panic!("{user}: {needs:?}") };
        assert!(how == by && said.contains(words), "{user}: {how} {said}");
    }
    assert_eq!(why("nobodys", Way::Free(Some(Become::Su))).await, StageError::Password(Become::Su, String::new()));
    for (user, by) in [
        ("pw", Become::Sudo),
        ("ttypw", Become::Sudo),
        ("doaspw", Become::Doas),
        ("doaskeep", Become::Doas),
        ("nobodys", Become::Su),
    ] {
        assert_eq!(why(user, with(by, "wrong")).await, StageError::WrongPassword(by), "{user}");
    }
    let text = |error| match error {
        StageError::Bootstrap(why) | StageError::Lost(why) => why,
        other => panic!("{other:?}"),
    };
    let unknown = text(why("pw", Way::Free(None)).await);
    assert!(unknown.contains("sudo: a password is required") && unknown.contains("doas"), "{unknown}");
    assert!(said::hint(&unknown).unwrap().contains("become = \"sudo\""), "{unknown}");
    let refused = text(why("nobodys", with(Become::Sudo, "two words")).await);
    assert!(refused.contains("nobodys is not in the sudoers file"), "{refused}");
    let doas = text(why("pw", Way::Free(Some(Become::Doas))).await);
    assert!(doas.contains("not permitted") && said::hint(&doas).unwrap().contains("doas.conf"), "{doas}");
    let doas = text(why("pw", with(Become::Doas, "two words")).await);
    assert!(doas.contains("not permitted") && said::hint(&doas).unwrap().contains("doas.conf"), "{doas}");
    for (user, said, about) in [
        ("noshell", "This account is currently not available", "may not log in"),
        ("less", "restricted", "restricted"),
        ("git", "unrecognized command", "git-shell"),
    ] {
        let why_not = super::look::look(&server.session_of(user).await, Instant::now() + Duration::from_secs(30)).await;
        assert!(why_not.unwrap_err().contains(said), "{user}");
        let why = text(why(user, Way::Free(None)).await);
        assert!(why.contains(said) && said::hint(&why).unwrap().contains(about), "{user}: {why}");
    }
    assert!(!server.path("seen").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_command_is_heard() {
    if !can_run() {
        return;
    }
    let words = "Please login as the user \"ubuntu\" rather than the user \"root\".";
    let server = server(&format!("ForceCommand echo '{words}';echo;exit 142"));
    let why = match started(&server, "root", &Way::Login).await {
        Err(StageError::Lost(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why, format!("the stage ended: exit status 142; it said: {words}"));
    assert_eq!(said::hint(&why).unwrap(), "write `user = \"ubuntu\"` in hosts.toml: it becomes root by sudo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_run_as_root() {
    if !can_run() {
        return;
    }
    let server = server("");
    let checked = async |user: &str, way: Way, text: &str| {
        let session = server.session_of(user).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        check(&session, &way, text, deadline).await.unwrap()
    };
    let whole = "# Any quote\necho \"it's\" '\\\\' !\ntest \"$(id -u)\" = 0 && ! read -r _";
    for user in ["free", "inc", "infish", "wantstty", "doas"] {
        assert_eq!(checked(user, Way::Free(None), whole).await, Ok(()), "{user}");
    }
    assert_eq!(checked("pw", with(Become::Sudo, "two words"), whole).await, Ok(()));
    assert_eq!(checked("doaspw", with(Become::Doas, DOASPW), whole).await, Ok(()));
    // It says something that looks like a question, longer than we wait for more of one.
    let asks = "printf \"Still waiting: \" >&2; sleep 1; echo done >&2";
    assert_eq!(checked("pw", with(Become::Sudo, "two words"), asks).await, Ok(()));
    let failed = checked("free", Way::Free(None), "echo it is down >&2; exit 3").await.unwrap_err();
    assert!(failed.starts_with("exit status 3; ") && failed.ends_with("it is down"), "{failed}");
    let failed = checked("doaspw", with(Become::Doas, DOASPW), "echo it is down >&2; exit 3").await.unwrap_err();
    assert_eq!(failed, "exit status 3; it is down");
    for (user, by) in [("pw", Become::Sudo), ("doaspw", Become::Doas), ("nobodys", Become::Su)] {
        let session = server.session_of(user).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let needs = check(&session, &Way::Free(Some(by)), "true", deadline).await;
        assert_eq!(needs, Err(NotRoot::Needs(by)), "{user}");
        let wrong = check(&session, &with(by, "wrong"), "true", deadline).await;
        assert_eq!(wrong, Err(NotRoot::WrongPassword(by)), "{user}");
    }
    let none = checked("noshell", Way::Free(None), "true").await.unwrap_err();
    assert!(none.contains("currently not available"), "{none}");
}

/// A check that needs a password which this process has not, or another than it has, as after `anemos attach`.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_for_its_password() {
    if !can_run() {
        return;
    }
    let server = server("");
    let soon = || Instant::now() + Duration::from_secs(2);
    let root = "test \"$(id -u)\" = 0";
    for (user, by, password) in
        [("pw", Become::Sudo, "two words"), ("doaspw", Become::Doas, DOASPW), ("nobodys", Become::Su, "roots own")]
    {
        let answers = Arc::new(Answers::default());
        let asks: Arc<dyn Passphrases> = Arc::clone(&answers) as _;
        let mut checks = Checks::new(&Passwords::new(&asks, []), "web1");
        let session = server.session_of(user).await;
        // Where nobody can be asked, that is said at once and again, and nothing is tried.
        for _ in 0..2 {
            let why = checks.run(&session, (user, Some(by)), root, soon()).await.unwrap_err();
            assert!(why.starts_with(&format!("it is run as root, for which `{user}` needs a password there")), "{why}");
            assert!(why.contains("no terminal to ask for it on; `anemos attach` on a terminal asks"), "{why}");
        }
        // Whoever attaches again is asked, until it is right, and not again.
        let mut checks = Checks::new(&Passwords::new(&asks, []), "web1");
        answers.typed.lock().unwrap().extend(["unused", password, "wrong"]);
        for _ in 0..2 {
            assert_eq!(checks.run(&session, (user, Some(by)), root, soon()).await, Ok(()), "{user}");
        }
        let asked = std::mem::take(&mut *answers.asked.lock().unwrap());
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked[0].starts_with("Password of ") && asked[0].ends_with(&format!("by {by} on web1: ")), "{asked:?}");
        assert!(asked[1].starts_with("That was not it on web1. "), "{asked:?}");
        // It is this user's, and no other's.
        let other = checks.run(&server.session_of("free").await, ("free", Some(Become::Sudo)), root, soon()).await;
        assert_eq!(other, Ok(()));
        assert_eq!(answers.typed.lock().unwrap().len(), 1);
        session.close().await;
    }
}

/// Some systems lock out a user who is wrong too often.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_no_more_than_three_times() {
    if !can_run() {
        return;
    }
    let server = server("");
    let answers = Arc::new(Answers::default());
    answers.typed.lock().unwrap().extend(["two words", "third", "second", "first"]);
    let asks: Arc<dyn Passphrases> = Arc::clone(&answers) as _;
    let mut checks = Checks::new(&Passwords::new(&asks, []), "web1");
    let session = server.session_of("pw").await;
    for _ in 0..2 {
        let user = ("pw", Some(Become::Sudo));
        let why = checks.run(&session, user, "true", Instant::now() + Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(
            why,
            "it is run as root, for which `pw` needs another password there: it was wrong 3 times (sudo); `anemos \
             attach` asks again"
        );
        assert_eq!(answers.asked.lock().unwrap().len(), 3);
    }
}

/// What doas runs with a password has the streams that it would have without one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_run_by_way_of_a_terminal_does_not_see_it() {
    if !can_run() {
        return;
    }
    let server = server("");
    for (user, password) in [("doaspw", DOASPW), ("doaskeep", "two words")] {
        let session = server.session_of(user).await;
        // Who was wrong may try again on the same connection.
        let wrong = terminal::start(&session, "cat", &with(Become::Doas, "wrong")).await.err();
        assert_eq!(wrong, Some(Refused::WrongPassword(Become::Doas)), "{user}");
        let script = "id -u; for fd in 0 1 2; do [ -t $fd ] && echo $fd is a terminal; done; echo aside >&2; \
                      trap \"\" HUP; cat; exit 7";
        let mut exec = terminal::start(&session, script, &with(Become::Doas, password)).await.unwrap();
        let bytes: Vec<u8> = (0..3 << 20).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
        let (writer, sent) = (exec.writer().clone(), bytes.clone());
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(100_000) {
                writer.send(piece.to_vec()).await?;
            }
            writer.end().await
        });
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(output) = exec.next().await {
            match output {
                Output::Stdout(bytes) => stdout.extend(bytes),
                Output::Stderr(bytes) => stderr.extend(bytes),
            }
        }
        sending.await.unwrap().unwrap();
        let first = b"anemos: by doas\n0\n";
        assert!(stdout.starts_with(first), "{user}: {}", String::from_utf8_lossy(&stdout[..100.min(stdout.len())]));
        assert!(stdout[first.len()..] == bytes, "{user}: {} bytes came back, or others", stdout.len() - first.len());
        assert_eq!((&stderr[..], exec.exit()), (&b"aside\n"[..], Exit::Status(7)), "{user}");
        session.close().await;
    }
}

/// Nothing of it is left on a host when the connection is lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_by_way_of_a_terminal_learns_of_the_end() {
    if !can_run() {
        return;
    }
    let server = server("");
    let session = server.session_of("doaspw").await;
    let ended = server.path("ended");
    let script = format!("cat >/dev/null; echo its input ended >{}", ended.display());
    let exec = terminal::start(&session, &script, &with(Become::Doas, DOASPW)).await.unwrap();
    assert!(!ended.exists());
    drop((exec, session));
    // Other tests have theirs for a moment.
    let pipes = || {
        let all = std::fs::read_dir("/tmp").unwrap().filter_map(Result::ok).map(|entry| entry.file_name());
        all.filter(|name| name.to_string_lossy().starts_with("anemos-")).count()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while !ended.exists() || pipes() > 0 {
        assert!(Instant::now() < end, "it still waits, or left {} behind", pipes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_terminals_says_so() {
    if !can_run() {
        return;
    }
    let server = server("PermitTTY no");
    let why = match started(&server, "doaspw", &with(Become::Doas, DOASPW)).await {
        Err(StageError::Bootstrap(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(why.contains("refused to open a terminal") && said::hint(&why).unwrap().contains("PermitTTY"), "{why}");
}

#[test]
fn only_a_question_is_answered_and_once() {
    let way = with(Become::Sudo, "secret");
    let said = |questions: &mut Questions, words: &str| {
        questions.push(words.as_bytes());
        questions.reply()
    };
    let line = || Reply::Line(b"secret\n".to_vec());
    let mut questions = Questions::new(&way);
    assert_eq!(said(&mut questions, "login: "), Reply::Nothing, "nothing was asked for yet");
    assert_eq!(said(&mut questions, "\nanemos: asks\nWe trust you:\n\n#1) Respect\n"), Reply::Nothing);
    // A message in pieces.
    assert_eq!(said(&mut questions, "sudo: unable to resolve host web1: "), Reply::Nothing);
    assert_eq!(said(&mut questions, "Name or service not known\n"), Reply::Nothing);
    assert_eq!(said(&mut questions, "passw"), Reply::Nothing);
    assert!(questions.quiet().is_none());
    questions.push(b"ord: ");
    assert!(questions.quiet().is_some() && !questions.answered());
    assert_eq!(questions.reply(), line());
    assert!(questions.answered());
    assert_eq!(said(&mut questions, "Sorry, try again.\n"), Reply::Nothing);
    assert_eq!(said(&mut questions, "password: "), Reply::Wrong);
    let mut questions = Questions::new(&way);
    assert_eq!(said(&mut questions, "anemos: asks\nPassword for admin@EXAMPLE.ORG: "), line());
    assert_eq!(said(&mut questions, "Verification code: "), Reply::Unknown("Verification code:".into()));
    let mut questions = Questions::new(&Way::Free(None));
    assert_eq!(said(&mut questions, "anemos: asks\npassword: "), Reply::Unknown("password:".into()));
    assert!(!format!("{way:?}").contains("secret"));
}
