//! Downloads from a server that flips, cuts, stalls, forgets and redirects.

mod common;

use std::time::{Duration, Instant};

use anemos_base::{
    Archive, Error, Failure, Fetcher, Kernel, Left, Limits, Lock, Mirrors, Proxies, Sha256, build, check, fetch_image,
};
use common::{Reply, Server, Shelf, deb_of, file, image, locked};

fn fetcher() -> Fetcher {
    patient(Duration::ZERO)
}

/// A fetcher that waits this long for busy servers.
fn patient(busy: Duration) -> Fetcher {
    let second = Duration::from_secs(1);
    let pause = Duration::from_millis(100);
    Fetcher::new(Limits { connect: second, stall: second, total: 20 * second, busy, pause })
}

fn debs() -> (Lock, Shelf) {
    let long = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    locked(&[("alpha", deb_of(&[file("./usr/a", "1")])), ("beta", deb_of(&[file("./usr/b", &long)]))]).unwrap()
}

fn serve(server: &Server, shelf: &Shelf) {
    for (path, bytes) in &shelf.0 {
        server.set(path, Reply::Bytes(bytes.clone()));
    }
}

fn built(fetcher: &Fetcher, lock: &Lock, mirrors: &[&Server], snapshot: Option<String>) -> Result<Vec<u8>, Error> {
    let mirrors = Mirrors::new(mirrors.iter().map(|server| server.url.clone()).collect(), Vec::new());
    let mut bytes = Vec::new();
    let archive = Archive::new(fetcher, lock, mirrors, move || snapshot.clone());
    build(lock, &lock.groups[0], &archive, 3, &mut bytes, &mut |_| {})?;
    Ok(zstd::decode_all(&bytes[..]).unwrap())
}

const BETA: &str = "pool/main/beta_1_all.deb";

#[test]
fn from_a_mirror() {
    let (lock, shelf) = debs();
    let server = Server::start();
    serve(&server, &shelf);
    let fetcher = fetcher();
    assert_eq!(built(&fetcher, &lock, &[&server], None).unwrap(), image(&lock, &shelf).unwrap().1);
    assert_eq!(fetcher.downloaded(), lock.download_size());
}

#[test]
fn from_files() {
    let (lock, shelf) = debs();
    let root = tempfile::tempdir().unwrap();
    for (path, bytes) in &shelf.0 {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let plain = root.path().display().to_string();
    for mirror in [format!("file://{plain}/"), plain] {
        let fetcher = fetcher();
        let archive = Archive::new(&fetcher, &lock, Mirrors::new(vec![mirror], Vec::new()), || None);
        build(&lock, &lock.groups[0], &archive, 1, std::io::sink(), &mut |_| {}).unwrap();
        assert_eq!(fetcher.downloaded(), 0);
    }
}

/// Each fault alone is an error that names the file and the reason; with a good mirror after it, it is none.
#[test]
fn faults_of_one_mirror() {
    let (lock, shelf) = debs();
    let beta = &shelf.0[BETA];
    let mut flipped = beta.clone();
    flipped[beta.len() / 2] ^= 1;
    let mut longer = beta.clone();
    longer.push(0);
    let good = Server::start();
    serve(&good, &shelf);
    for (reply, reason) in [
        (Reply::Bytes(flipped), "SHA-256 is "),
        (Reply::Cut(beta.clone(), 100), "truncated: 100 of "),
        (Reply::Bytes(beta[..100].to_vec()), "truncated: 100 of "),
        (Reply::Bytes(longer), "too long"),
        (Reply::Status(404), "not found"),
        (Reply::Status(503), "the server answered 503"),
        (Reply::Stall(beta.clone(), 10), "timeout: nothing came for 1 s"),
        (Reply::Elsewhere("ftp://127.0.0.1/x".to_owned()), "ftp:// is not supported"),
    ] {
        let bad = Server::start();
        serve(&bad, &shelf);
        bad.set(BETA, reply);
        let error = built(&fetcher(), &lock, &[&bad], None).unwrap_err().to_string();
        let start = format!("{BETA}: no address had it: {}/{BETA}: ", bad.url);
        assert!(error.starts_with(&start) && error.contains(reason), "{reason}: {error}");
        built(&fetcher(), &lock, &[&bad, &good], None).unwrap();
    }
}

#[test]
fn every_address_has_its_reason() {
    let (lock, shelf) = debs();
    let (first, second) = (Server::start(), Server::start());
    serve(&first, &shelf);
    serve(&second, &shelf);
    first.set(BETA, Reply::Status(404));
    second.set(BETA, Reply::Bytes(b"short".to_vec()));
    let Err(Error::Fetch { file, attempts }) = built(&fetcher(), &lock, &[&first, &second], None) else {
        panic!("not refused")
    };
    assert_eq!(file, BETA);
    assert_eq!(attempts[0].failure, Failure::NotFound);
    assert!(matches!(attempts[1].failure, Failure::Truncated { received: 5, .. }), "{attempts:?}");
    assert_eq!(attempts.len(), 2);
}

#[test]
fn snapshots_when_a_version_has_left_the_mirror() {
    let (lock, shelf) = debs();
    let (mirror, snapshot) = (Server::start(), Server::start());
    serve(&mirror, &shelf);
    mirror.set(BETA, Reply::Status(404));
    let id = lock.made.snapshot_id();
    snapshot.set(&format!("archive/{id}/{BETA}"), Reply::Bytes(shelf.0[BETA].clone()));
    let template = format!("{}/archive/@SNAPSHOTID@/", snapshot.url);
    built(&fetcher(), &lock, &[&mirror], Some(template.clone())).unwrap();
    // Only what is missing is taken from there.
    assert!(snapshot.asked.lock().unwrap().iter().all(|path| path.ends_with(BETA)));
}

#[test]
fn security_updates_are_in_an_archive_of_their_own() {
    let (mut lock, shelf) = debs();
    lock.groups[0].packages.iter_mut().find(|package| package.name == "beta").unwrap().security = true;
    let (mirror, known, snapshot) = (Server::start(), Server::start(), Server::start());
    let alpha = "pool/main/alpha_1_all.deb";
    mirror.set(&format!("debian/{alpha}"), Reply::Bytes(shelf.0[alpha].clone()));
    let beta = Reply::Bytes(shelf.0[BETA].clone());
    let asked = |server: &Server, part: &str| server.asked.lock().unwrap().iter().any(|path| path.contains(part));
    let attempt = || {
        let fetcher = fetcher();
        let mirrors = Mirrors::new(vec![format!("{}/debian", mirror.url)], vec![known.url.clone()]);
        let template = Some(format!("{}/archive/debian/@SNAPSHOTID@/", snapshot.url));
        let archive = Archive::new(&fetcher, &lock, mirrors, || template.clone());
        build(&lock, &lock.groups[0], &archive, 1, std::io::sink(), &mut |_| {})
    };
    let error = attempt().unwrap_err().to_string();
    for place in ["/debian-security/pool/", "/archive/debian-security/"] {
        assert!(error.contains(place), "{place}: {error}");
    }
    // The snapshot archive has it, then the archive that is known, then the one beside the mirror.
    let id = lock.made.snapshot_id();
    snapshot.set(&format!("archive/debian-security/{id}/{BETA}"), beta.clone());
    attempt().unwrap();
    assert!(!asked(&snapshot, "/debian/"), "that is no archive of security updates");
    known.set(BETA, beta.clone());
    snapshot.asked.lock().unwrap().clear();
    attempt().unwrap();
    mirror.set(&format!("debian-security/{BETA}"), beta);
    known.asked.lock().unwrap().clear();
    attempt().unwrap();
    assert!(!asked(&snapshot, "") && !asked(&known, ""));
}

#[test]
fn what_has_left_is_named_where_no_snapshots_are_known() {
    let (lock, shelf) = debs();
    let mirror = Server::start();
    serve(&mirror, &shelf);
    mirror.set(BETA, Reply::Status(404));
    let told = |mirrors: &[&Server], all: bool| {
        let error = built(&fetcher(), &lock, mirrors, None).unwrap_err();
        let Error::Left { ref packages, .. } = error else { panic!("{error}") };
        assert_eq!(packages.contains(&"alpha".to_owned()), all, "{error}");
        assert!(packages.contains(&"beta".to_owned()), "{error}");
        error.to_string()
    };
    let error = told(&[&mirror], false);
    let start = format!("{BETA}: no address had it: {}/{BETA}: not found; beta has left the mirror", mirror.url);
    assert!(error.starts_with(&start), "{error}");
    assert!(error.contains("`snapshot` in hosts.toml") && error.contains("no archive of past versions"), "{error}");
    // A server that has none of the packages may be no mirror at all.
    let empty = Server::start();
    let error = told(&[&empty], true);
    assert!(error.contains("none of the 2 packages is there, so this may be no mirror"), "{error}");
    // One mirror that has the package is enough.
    let full = Server::start();
    serve(&full, &shelf);
    built(&fetcher(), &lock, &[&empty, &full], None).unwrap();
    // A mirror that can't answer may still have the package: it is not said to have left.
    full.set(BETA, Reply::Status(500));
    let error = built(&fetcher(), &lock, &[&mirror, &full], None).unwrap_err();
    assert!(matches!(error, Error::Fetch { .. }), "{error}");
}

/// What has left is told without a download, with where it still is; and a mirror that can't tell is an error.
#[test]
fn what_has_left_is_looked_for_without_downloading_it() {
    let (mut lock, shelf) = debs();
    // The last one is the kernel's.
    let kernel = lock.groups[0].packages.pop().unwrap();
    lock.kernel = Some(Kernel { release: "6.12-x".to_owned(), packages: vec![kernel] });
    let (mirror, snapshot) = (Server::start(), Server::start());
    serve(&mirror, &shelf);
    let template = format!("{}/archive/@SNAPSHOTID@/", snapshot.url);
    let left = |mirrors: &[&Server], template: Option<&str>| {
        let fetcher = patient(Duration::from_secs(9));
        let mirrors = Mirrors::new(mirrors.iter().map(|server| server.url.clone()).collect(), Vec::new());
        let archive = Archive::new(&fetcher, &lock, mirrors, || template.map(str::to_owned));
        let mut done = Vec::new();
        let left = check(&lock, &archive, &mut |number| done.push(number));
        assert!(left.is_err() || done == [1, 2], "{done:?}");
        // Of a server that knows no HEAD, as much as comes with it.
        assert!(fetcher.downloaded() <= 1, "{}", fetcher.downloaded());
        left
    };
    assert_eq!(left(&[&mirror], None).unwrap(), []);
    mirror.set(BETA, Reply::NoHead(shelf.0[BETA].clone()));
    assert_eq!(left(&[&mirror], None).unwrap(), []);
    mirror.set(BETA, Reply::First(1, Box::new(Reply::Busy(1, 503, Some(1), Vec::new())), shelf.0[BETA].clone()));
    assert_eq!(left(&[&mirror], None).unwrap(), []);
    mirror.set(BETA, Reply::Status(404));
    let beta = |still| Left { name: "beta".to_owned(), version: "1".to_owned(), still };
    let none = beta(Err("no archive of past versions is known".to_owned()));
    assert_eq!(left(&[&mirror], None).unwrap(), std::slice::from_ref(&none));
    // The snapshot archive lacks it, can't tell, and has it.
    let place = format!("archive/{}/{BETA}", lock.made.snapshot_id());
    for (reply, why) in [(Reply::Status(404), "not found"), (Reply::Status(500), "answered 500")] {
        snapshot.set(&place, reply);
        let [Left { still: Err(said), .. }] = &left(&[&mirror], Some(&template)).unwrap()[..] else { panic!("{why}") };
        assert!(said.starts_with("the archive of past versions: ") && said.contains(why), "{said}");
    }
    snapshot.set(&place, Reply::Bytes(shelf.0[BETA].clone()));
    let at = format!("{}/{place}", snapshot.url);
    assert_eq!(left(&[&mirror], Some(&template)).unwrap(), [beta(Ok(at))]);
    // Another mirror has it, or nothing more.
    let (empty, full) = (Server::start(), Server::start());
    serve(&full, &shelf);
    assert_eq!(left(&[&mirror, &full], None).unwrap(), []);
    assert_eq!(left(&[&mirror, &empty], None).unwrap(), [none]);
    // One that can't tell may have it.
    empty.set(BETA, Reply::Status(500));
    let error = left(&[&mirror, &empty], Some(&template)).unwrap_err().to_string();
    assert!(error.starts_with(BETA) && error.contains("answered 500"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let (lock, shelf) = debs();
    let mirror = Server::start();
    let timed = |fetcher: &Fetcher, servers: &[&Server], snapshot: Option<String>| {
        let started = Instant::now();
        (built(fetcher, &lock, servers, snapshot), started.elapsed())
    };
    let long = Duration::from_secs(60);
    serve(&mirror, &shelf);
    for (reply, at_least) in [
        (Reply::Busy(1, 429, Some(1), shelf.0[BETA].clone()), 1),
        (Reply::Busy(2, 503, Some(1), shelf.0[BETA].clone()), 2),
        // Without Retry-After.
        (Reply::Busy(1, 503, None, shelf.0[BETA].clone()), 1),
    ] {
        mirror.set(BETA, reply);
        let (built, took) = timed(&patient(long), &[&mirror], None);
        built.unwrap();
        assert!(took >= Duration::from_secs(at_least), "{took:?}");
    }
    // A date, by the server's clock.
    let until = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:39 GMT\r\n";
    mirror.set(BETA, Reply::First(1, Box::new(Reply::With(503, until)), shelf.0[BETA].clone()));
    let (built, took) = timed(&patient(long), &[&mirror], None);
    built.unwrap();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
    // Whoever else has it is asked first: another mirror, the snapshot archive.
    let (other, snapshot) = (Server::start(), Server::start());
    serve(&other, &shelf);
    mirror.set(BETA, Reply::Busy(100, 503, Some(20), Vec::new()));
    let (built, took) = timed(&patient(long), &[&mirror, &other], None);
    built.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let id = lock.made.snapshot_id();
    snapshot.set(&format!("{id}/{BETA}"), Reply::Busy(2, 429, Some(1), shelf.0[BETA].clone()));
    let template = || Some(format!("{}/@SNAPSHOTID@/", snapshot.url));
    let (built, took) = timed(&patient(long), &[&mirror], template());
    built.unwrap();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
    // A server that asks for more time than the deadline has is given up, at once or in the end.
    mirror.set(BETA, Reply::Busy(100, 429, Some(3600), Vec::new()));
    let (built, took) = timed(&patient(long), &[&mirror], None);
    let error = built.unwrap_err().to_string();
    let said = "the server answered 429, and is to be left alone for 3600 s more, which is longer than the \
                deadline `busy` (60 s)";
    assert!(error.contains(said) && took < Duration::from_secs(10), "{error} {took:?}");
    mirror.set(BETA, Reply::Busy(100, 503, Some(1), Vec::new()));
    let (built, took) = timed(&patient(Duration::from_secs(2)), &[&mirror], None);
    let error = built.unwrap_err().to_string();
    assert!(error.contains("answered 503") && error.contains("`busy` (2 s)"), "{error}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

/// A mirror that goes away in the middle of a file, or before it, is asked again, but not for ever.
#[test]
fn an_answer_that_breaks_off_is_asked_for_again() {
    let (lock, shelf) = debs();
    let beta = &shelf.0[BETA];
    let asked = |server: &Server| server.asked.lock().unwrap().iter().filter(|path| path.ends_with(BETA)).count();
    let mirror = || {
        let mirror = Server::start();
        serve(&mirror, &shelf);
        mirror
    };
    for (times, bad) in [
        (3, Reply::Cut(beta.clone(), 100)),
        (1, Reply::Cut(beta.clone(), 0)),
        (1, Reply::Stall(beta.clone(), 100)),
        (1, Reply::Stall(beta.clone(), 0)),
        (1, Reply::Nothing),
    ] {
        let mirror = mirror();
        mirror.set(BETA, Reply::First(times, Box::new(bad), beta.clone()));
        built(&patient(Duration::from_secs(60)), &lock, &[&mirror], None).unwrap();
        assert_eq!(asked(&mirror), times + 1);
    }
    // Whoever else has it is asked first.
    let (cut, other) = (mirror(), mirror());
    cut.set(BETA, Reply::Cut(beta.clone(), 100));
    built(&patient(Duration::from_secs(60)), &lock, &[&cut, &other], None).unwrap();
    assert_eq!((asked(&cut), asked(&other)), (1, 1));
    // One that always breaks off is given up, with the reason.
    let error = built(&patient(Duration::from_secs(60)), &lock, &[&cut], None).unwrap_err().to_string();
    assert!(error.contains("truncated: 100 of "), "{error}");
    assert_eq!(asked(&cut), 1 + 4);
    // What is not the file is not the file the next time.
    for reply in [Reply::Bytes(beta[..100].to_vec()), Reply::Bytes(vec![7; beta.len()]), Reply::Status(500)] {
        let mirror = mirror();
        mirror.set(BETA, reply);
        built(&patient(Duration::from_secs(60)), &lock, &[&mirror], None).unwrap_err();
        assert_eq!(asked(&mirror), 1);
    }
    // A file that is fetched by its hash alone.
    let mirror = mirror();
    mirror.set("x", Reply::First(1, Box::new(Reply::Cut(beta.clone(), 100)), beta.clone()));
    let (fetcher, url) = (patient(Duration::from_secs(60)), format!("{}/x", mirror.url));
    let got = fetcher.get_pinned("x", &[url], beta.len() as u64, Sha256::of(beta)).unwrap();
    assert!(got == *beta, "other bytes");
}

/// By the machine's own tools, which find it in their environment.
#[test]
fn through_a_proxy() {
    let (proxy, url) = (Server::start(), "http://mirror.invalid/debian/x");
    proxy.set_at(url, Reply::Bytes(b"here".to_vec()));
    proxy.set_at("http://mirror.invalid/busy", Reply::Busy(1, 503, None, Vec::new()));
    let through = fetcher();
    through.go_through(Proxies::default().replaced(Some(&proxy.url)));
    assert_eq!(through.get(url, 10).unwrap(), b"here");
    assert_eq!(*proxy.asked.lock().unwrap(), [url]);
    assert_eq!(through.get("http://mirror.invalid/none", 10), Err(Failure::NotFound));
    assert_eq!(through.get("http://mirror.invalid/busy", 10), Err(Failure::Busy { status: 503, after: None }));
    // The server itself is not known here, and is asked where there is no proxy.
    let error = fetcher().get(url, 10).unwrap_err().to_string();
    assert!(error.contains("the host name is not known"), "{error}");
    // Nor is the proxy asked for what is on this machine.
    let here = Server::start();
    here.set("x", Reply::Bytes(b"at home".to_vec()));
    assert_eq!(through.get(&format!("{}/x", here.url), 10).unwrap(), b"at home");
}

#[test]
fn waiting_for_a_busy_server_can_be_cancelled() {
    let (lock, shelf) = debs();
    let server = Server::start();
    serve(&server, &shelf);
    server.set(BETA, Reply::Busy(100, 429, Some(50), Vec::new()));
    let fetcher = patient(Duration::from_secs(60));
    let started = Instant::now();
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| built(&fetcher, &lock, &[&server], None));
        while !server.asked.lock().unwrap().iter().any(|path| path.ends_with(BETA)) {
            assert!(started.elapsed() < Duration::from_secs(10), "it was never asked for");
            std::thread::yield_now();
        }
        fetcher.cancel();
        running.join().unwrap()
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (lock, shelf) = debs();
    let (from, to) = (Server::start(), Server::start());
    serve(&to, &shelf);
    for path in shelf.0.keys() {
        from.set(path, Reply::Elsewhere(format!("{}/{path}", to.url)));
    }
    built(&fetcher(), &lock, &[&from], None).unwrap();
    from.set(BETA, Reply::Elsewhere(format!("/{BETA}")));
    let error = built(&fetcher(), &lock, &[&from], None).unwrap_err().to_string();
    assert!(error.contains("redirected too often"), "{error}");
}

#[test]
fn a_redirect_leads_to_no_file_of_this_machine() {
    let (lock, shelf) = debs();
    let server = Server::start();
    serve(&server, &shelf);
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("beta.deb");
    std::fs::write(&here, &shelf.0[BETA]).unwrap();
    server.set(BETA, Reply::Elsewhere(format!("file://{}", here.display())));
    let error = built(&fetcher(), &lock, &[&server], None).unwrap_err().to_string();
    assert!(error.contains("redirected to file:///") && error.contains("no server's"), "{error}");
}

#[test]
fn cancelling_ends_a_stalled_download() {
    let (lock, shelf) = debs();
    let server = Server::start();
    serve(&server, &shelf);
    server.set(BETA, Reply::Stall(shelf.0[BETA].clone(), 10));
    let fetcher = fetcher();
    let started = Instant::now();
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| built(&fetcher, &lock, &[&server], None));
        while !server.asked.lock().unwrap().iter().any(|path| path.ends_with(BETA)) {
            assert!(started.elapsed() < Duration::from_secs(10), "it was never asked for");
            std::thread::yield_now();
        }
        fetcher.cancel();
        running.join().unwrap()
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn ready_made_images() {
    let (lock, shelf) = debs();
    let (_, plain) = image(&lock, &shelf).unwrap();
    let good = zstd::encode_all(&plain[..], 3).unwrap();
    let mut other = plain.clone();
    other[500] ^= 1;
    let server = Server::start();
    server.set("good", Reply::Bytes(good.clone()));
    server.set("other", Reply::Bytes(zstd::encode_all(&other[..], 3).unwrap()));
    server.set("cut", Reply::Cut(good.clone(), good.len() / 2));
    server.set("rubbish", Reply::Bytes(b"not zstd at all".to_vec()));
    let url = |name: &str| format!("{}/{name}", server.url);
    let path = tempfile::NamedTempFile::new().unwrap();
    let mut start = || std::fs::File::create(path.path());
    let urls: Vec<String> = ["none", "other", "cut", "rubbish", "good"].into_iter().map(url).collect();
    let fetched = fetch_image(&fetcher(), &lock.groups[0], &urls, &mut start).unwrap();
    assert_eq!(fetched.compressed_size, good.len() as u64);
    assert_eq!(std::fs::read(path.path()).unwrap(), good);
    server.set("busy", Reply::Busy(1, 503, Some(1), good.clone()));
    fetch_image(&patient(Duration::from_secs(9)), &lock.groups[0], &[url("none"), url("busy")], &mut start).unwrap();
    assert_eq!(std::fs::read(path.path()).unwrap(), good);
    for bad in [Reply::Cut(good.clone(), good.len() / 2), Reply::Stall(good.clone(), 10), Reply::Nothing] {
        server.set("broken", Reply::First(1, Box::new(bad), good.clone()));
        fetch_image(&patient(Duration::from_secs(9)), &lock.groups[0], &[url("broken")], &mut start).unwrap();
        assert_eq!(std::fs::read(path.path()).unwrap(), good);
    }
    let error = fetch_image(&fetcher(), &lock.groups[0], &urls[..4], &mut start).unwrap_err().to_string();
    for reason in ["/none: not found", "/other: SHA-256 is ", "/cut: ", "truncated", "/rubbish: "] {
        assert!(error.contains(reason), "{reason} is not in: {error}");
    }
}

/// What https needs of the host: a tool, whose failure is told. Nothing listens on the port.
#[test]
fn https_by_the_hosts_tools() {
    let error = fetcher().get("https://127.0.0.1:1/x", 10).unwrap_err().to_string();
    assert!(error.contains("curl") || error.contains("wget") || error.contains("apt-helper"), "{error}");
}

/// Names are resolved by getent; every machine knows this one.
#[test]
fn localhost_has_a_name() {
    let server = Server::start();
    server.set("x", Reply::Bytes(b"hello".to_vec()));
    let url = server.url.replace("127.0.0.1", "localhost");
    assert_eq!(fetcher().get(&format!("{url}/x"), 10).unwrap(), b"hello");
    let error = fetcher().get("http://no-such-name.invalid/x", 10).unwrap_err();
    assert!(matches!(error, Failure::Connection(_) | Failure::Timeout(_)), "{error:?}");
}
