//! The page in a real browser: `make browser`. tests/web.rs shows without one who is let in and what is said.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/daemon.rs"]
#[allow(dead_code, reason = "tests/serve.rs needs more of it")]
mod daemon;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;
#[path = "web/http.rs"]
#[allow(dead_code, reason = "tests/web.rs needs more of it")]
mod http;
#[path = "web/webdriver.rs"]
mod webdriver;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use daemon::{Obedient, Terminal, Workstation};
use host::Host;
use http::Page;
use serde_json::{Value, json};
use webdriver::{Browser, Driver};

/// What a hostile payload prints.
const NASTY: &[u8] =
    b"\x1b[31m<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\x1b]0;t\x07 \
      \xe2\x80\xaegnp.exe";

/// That as the page shows it.
const SHOWN: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> gnp.exe";

/// The narrowest screen that is in use, in pixels.
const NARROW: u32 = 360;

/// The root of the checkout.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What axe-core finds wrong with the page as it is: https://github.com/dequelabs/axe-core
fn assert_accessible(browser: &Browser, what: &str) {
    let path = std::env::var_os("ANEMOS_AXE").map(PathBuf::from);
    let path = path.expect("$ANEMOS_AXE names axe-core's axe.min.js: make browser gets it");
    let axe = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
    for scheme in ["light", "dark"] {
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
        let run = format!(
            "{axe};\naxe.run(document, {{ runOnly: {} }}).then((r) => done({{ passes: r.passes.length, violations: \
             r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html + ' ' + n.failureSummary)]) }}), (e) => \
             done(String(e)));",
            json!(tags)
        );
        let found = browser.run_async(&run);
        assert!(found["passes"].as_u64().is_some_and(|passes| passes > 10), "{what}: {found}");
        assert_eq!(found["violations"], json!([]), "{what}, {scheme}");
    }
    browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": [] }));
}

/// Nothing of the page is wider than a small telephone.
fn assert_fits(browser: &Browser, what: &str) {
    let screen = json!({ "width": NARROW, "height": 740, "deviceScaleFactor": 1, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", &screen);
    let wide = browser.run("return [innerWidth, document.documentElement.scrollWidth]");
    assert_eq!(wide, json!([NARROW, NARROW]), "{what}");
    keep(browser, &format!("{what}-narrow"));
    browser.devtools("Emulation.clearDeviceMetricsOverride", &json!({}));
}

/// Puts what the browser shows into target/browser.
fn keep(browser: &Browser, name: &str) {
    let dir = root().join("target/browser");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{name}.png")), browser.screenshot()).unwrap();
}

/// The texts of the lines of output that the page shows.
fn output(browser: &Browser) -> Vec<String> {
    let lines = browser.run("return [...document.querySelectorAll('.log div')].map((line) => line.textContent)");
    lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_from_plan_to_end() {
    let script = Obedient::printing(
        Some("build"),
        &[NASTY, b"Unpacking libc6:amd64 (2.41-12) ...", b"Setting up libc6:amd64 (2.41-12) ..."],
    );
    let mut hosts = Vec::new();
    hosts.push(Host::start(101, script.clone()).await);
    // Their turn comes when the first is deployed.
    for number in [102, 103] {
        hosts.push(Host::start(number, Obedient::new(None)).await);
    }
    tokio::task::spawn_blocking(move || watched(&script, &hosts)).await.unwrap();
}

fn watched(script: &Obedient, hosts: &[Arc<Host>]) {
    let named: Vec<(&str, &Host)> = ["web1", "web2", "db1"].into_iter().zip(hosts.iter().map(|host| &**host)).collect();
    let workstation = Workstation::new(&named, &["--web", "127.0.0.1:0"]);
    let page = Page::of(&workstation);
    let link = format!("http://{}/#token={}", page.address, page.token);
    let driver = Driver::start();
    let (one, two) = (workstation.path("one"), workstation.path("two"));
    let (first, second) = (Browser::start(&driver, &one), Browser::start(&driver, &two));

    // Whoever has no token is asked for it; whoever enters a wrong one, again.
    second.open(&format!("http://{}/", page.address));
    second.wait("document.querySelector('h1')?.textContent === 'Sign in'");
    assert_accessible(&second, "sign-in");
    assert_fits(&second, "sign-in");
    second.type_into("#token", "wrong\u{e007}");
    second.wait("document.body.innerText.includes('the token is missing, or is another one')");
    second.type_into("#token", &format!("{}\u{e007}", page.token));
    second.wait("document.querySelector('h1')?.textContent === 'Runs'");

    let terminal = Terminal::start(&mut workstation.anemos(&["up", "--serve", "hosts.toml"]));
    first.open(&link);
    first.wait("document.body.innerText.includes('waits for your decision')");
    assert_eq!(first.run("return location.hash"), "#/", "the token stays in the address");
    assert_accessible(&first, "runs");
    assert_fits(&first, "runs");
    second.wait("document.body.innerText.includes('waits for your decision')");
    let run = workstation.run().file_name().unwrap().to_str().unwrap().to_owned();

    // By keys alone: the way past the head of the page first, then to the run.
    assert_eq!(first.run("return document.querySelector('a, button, input').id"), "skip");
    first.run("document.getElementById('skip').focus()");
    first.press('\u{e007}');
    assert_eq!(first.run("return document.activeElement.id"), "main");
    first.press('\u{e004}');
    assert_eq!(first.run("return document.activeElement.textContent"), run.as_str());
    first.press('\u{e007}');
    first.wait("!!document.querySelector('#typed')");
    assert_eq!(first.run("return document.activeElement.tagName"), "H1", "a page begins with its heading");

    // What will be wiped, and the question.
    let text = first.text();
    for part in ["WIPED: /dev/vda", "16.0 GiB", "Everything on these disks of 3 hosts will be lost."] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_accessible(&first, "plan");
    assert_fits(&first, "plan");
    keep(&first, "plan");
    second.click(&format!("a[href='#/runs/{run}']"));
    second.wait("!!document.querySelector('#typed')");
    let disabled = "return document.querySelector('button.strong').disabled";
    assert_eq!(first.run(disabled), true);
    first.type_into("#typed", "ye\u{e007}");
    assert_eq!((first.run(disabled), hosts[0].boots()), (true.into(), 0));
    first.type_into("#typed", "s");
    assert_eq!(first.run(disabled), false);
    first.click("button.strong");
    for browser in [&first, &second] {
        browser.wait("document.body.innerText.includes('It is under way.') && !document.querySelector('#typed')");
        browser.wait("document.querySelector('ol.phases li.now')?.textContent.startsWith('build')");
    }
    first.wait("document.body.innerText.includes('install packages: unpacking libc6')");
    assert_eq!(first.run("return document.querySelector('progress').value"), 60);
    assert_accessible(&first, "run");
    assert_fits(&first, "run");
    first.devtools(
        "Emulation.setDeviceMetricsOverride",
        &json!({ "width": 900, "height": 760, "deviceScaleFactor": 1, "mobile": false }),
    );
    keep(&first, "run");
    if let Some(path) = std::env::var_os("ANEMOS_SCREENSHOT") {
        fs::write(root().join(path), first.screenshot()).unwrap();
    }
    first.devtools("Emulation.clearDeviceMetricsOverride", &json!({}));

    // Its output, before and after a reload: each line once, and none of it markup.
    first.click("a[href$='/web1']");
    let all = [
        "hello from the payload",
        SHOWN,
        "Unpacking libc6:amd64 (2.41-12) ...",
        "Setting up libc6:amd64 (2.41-12) ...",
    ];
    for again in [false, true] {
        if again {
            first.reload();
        }
        first.wait("document.querySelectorAll('.log div').length >= 4");
        assert_eq!(output(&first), all);
        assert_eq!(first.run("return document.querySelectorAll('.log *:not(div), main script, main img').length"), 0);
        assert!(!first.run("return document.title").as_str().unwrap().contains("owned"));
    }
    assert!(first.text().contains(&format!("anemos shell web1 --run {run}")));
    assert_accessible(&first, "host");
    assert_fits(&first, "host");
    keep(&first, "host");

    // Something that can't be taken back is asked about, and Escape is a no.
    first.run("[...document.querySelectorAll('button')].find((button) => button.textContent === 'Abort').click()");
    first.wait("document.querySelector('dialog')?.open");
    assert_accessible(&first, "dialog");
    first.press('\u{e00c}');
    first.wait("!document.querySelector('dialog')");

    // What is printed while somebody looks comes by itself, and to the end.
    second.open(&format!("http://{}/#/runs/{run}/web1", page.address));
    second.wait("document.querySelectorAll('.log div').length >= 4");
    script.release();
    for browser in [&first, &second] {
        browser.wait("document.body.innerText.includes('deployed')");
        assert_eq!(output(browser).len(), 4);
    }
    first.click("#to-hosts");
    first.wait("[...document.querySelectorAll('.card')].filter((c) => c.innerText.includes('deployed')).length === 3");
    assert_accessible(&first, "hosts");
    assert_fits(&first, "hosts");
    // Nothing was loaded from anywhere else.
    let origins: Value =
        first.run("return performance.getEntriesByType('resource').map((r) => new URL(r.name).origin)");
    let own = format!("http://{}", page.address);
    assert!(origins.as_array().unwrap().iter().all(|origin| origin == own.as_str()), "{origins}");
    drop(terminal);
}
