//! `plan -o`, `up --plan` and `plan --detailed-exitcode`.

use std::fs;

use crate::desk::{Desk, Shared};
use crate::host::{Boot, Host};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_is_done_and_nothing_else() {
    let (web, db) = (Shared::default(), Shared::default());
    let (web_host, db_host) = (Host::start(1, web.clone()).await, Host::start(2, db.clone()).await);
    let desk = Desk::new(&[("web", &web_host), ("db", &db_host)]);
    let toml = desk.read("hosts.toml");

    // What is no file, or has no directory, is told before anybody is met. The pipe is the command's own.
    for (path, says) in [("/dev/stdout", "is no regular file"), ("none/fleet.plan", "no file can be made in none")] {
        let (status, said) = desk.run(&["plan", "-o", path]);
        assert!(status == 2 && said.contains(says) && !said.contains("connecting"), "{said}");
    }

    // Another file is left alone, before anybody is met.
    let (status, said) = desk.run(&["plan", "-o", "hosts.toml"]);
    assert!(status == 2 && said.contains("there is a file that is no plan"), "{said}");
    assert_eq!(desk.read("hosts.toml"), toml);

    let (status, said) = desk.run(&["plan", "-o", "fleet.plan"]);
    assert!(status == 0 && said.contains("`anemos up --plan fleet.plan` does it"), "{said}");
    for (secret, what) in [(desk.read("key"), "key"), (desk.read("key")[40..80].to_owned(), "part of the key")] {
        assert!(!desk.read("fleet.plan").contains(&secret), "the {what} is in it");
    }

    // What hosts.toml says is otherwise: nobody is met.
    desk.write("hosts.toml", &toml.replace("[hosts.db]\n", "[hosts.db]\nvars = { A = 1 }\n"));
    let on_end = "echo $ANEMOS_STATUS $ANEMOS_UNTOUCHED $ANEMOS_RUN > env";
    let up = &["up", "--plan", "fleet.plan", "--report", "run.xml", "--on-end", on_end];
    let (status, said) = desk.run(up);
    assert!(status == 3 && said.contains("  db: `vars.A` was not given and is `1`\n"), "{said}");
    assert!(!said.contains("connecting"), "{said}");
    // Whoever waits for the end hears that nothing came of it, and that there is nothing to report.
    assert_eq!(desk.read("env"), "3 0\n");
    assert!(said.contains("run.xml is not written, since no run was begun"), "{said}");
    desk.write("hosts.toml", &toml);
    desk.write("payload/deploy", "#!/bin/sh\nanother\n");
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan"]);
    assert!(status == 3 && said.contains("  db: `payload` was `") && said.contains("  web: `payload` was"), "{said}");
    desk.write("payload/deploy", "#!/bin/sh\n");

    // A disk is another: nothing is done to either host.
    db.0.facts.lock().unwrap().disks[0].id.serial = Some("T".into());
    let (status, said) = desk.run(up);
    assert!(status == 3 && said.contains("  db: the disk that is wiped was /dev/vda ("), "{said}");
    assert!(said.contains("serial S") && said.contains("serial T") && !said.contains("  web: "), "{said}");
    assert_eq!((web_host.boots(), db_host.boots()), (0, 0));
    let (env, xml) = (desk.read("env"), desk.read("run.xml"));
    assert!(env.starts_with("3 2 ") && xml.contains(env["3 2 ".len()..].trim()), "{env}: {xml}");
    assert!(xml.contains("tests=\"2\" failures=\"2\" errors=\"0\""), "{xml}");

    // What is not meant is not looked at, and what the plan does not have is an error.
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan", "nosuch"]);
    assert!(status == 2 && said.contains("has no host `nosuch`"), "{said}");
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan", "web", "--parallel", "1"]);
    assert!(status == 2 && said.contains("cannot be used with"), "{said}");
    fs::create_dir(desk.path("elsewhere")).unwrap();
    let up = desk.anemos(&["up", "--plan", "../fleet.plan", "web"]).current_dir(desk.path("elsewhere")).output();
    let said = crate::desk::text(&up.unwrap());
    assert!(said.contains("web verify: deployed: New"), "{said}");
    assert_eq!((web_host.boots(), db_host.boots(), web_host.boot()), (1, 0, Boot::New));

    // A file that is not all there.
    let plan = desk.read("fleet.plan");
    desk.write("half.plan", &plan[..plan.len() / 2]);
    let (status, said) = desk.run(&["up", "--plan", "half.plan"]);
    assert!(status == 2 && said.contains("half.plan: it is no plan that"), "{said}");
}

/// Whoever approved a plan approved who goes first.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_is_that_of_the_plan() {
    let (web, db) = (Shared::default(), Shared::default());
    let (web_host, db_host) = (Host::start(5, web.clone()).await, Host::start(6, db.clone()).await);
    let desk = Desk::new(&[("web", &web_host), ("db", &db_host)]);
    let (status, said) = desk.run(&["plan", "-o", "fleet.plan"]);
    assert_eq!(status, 0, "{said}");
    let toml = desk.read("hosts.toml");
    let (before, tables) = toml.split_at(toml.find("[hosts.").unwrap());
    let (web_table, db_table) = tables.split_at(1 + tables[1..].find("[hosts.").unwrap());
    desk.write("hosts.toml", &format!("{before}{db_table}\n{web_table}"));
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan"]);
    assert_eq!(status, 0, "{said}");
    let deployed = |name: &str| said.find(&format!("{name} verify: deployed")).expect(name);
    assert!(deployed("web") < deployed("db"), "{said}");

    // A host that hosts.toml has no more is nothing to those that are named.
    desk.write("hosts.toml", &format!("{before}{web_table}"));
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan", "--on-end", "echo $ANEMOS_STATUS >> ended"]);
    assert!(status == 3 && said.contains("db: ") && said.contains("name the hosts that are meant"), "{said}");
    assert_eq!(desk.read("ended"), "3\n");
    let (_, said) = desk.run(&["up", "--plan", "fleet.plan", "web"]);
    assert!(!said.contains("db: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_can_not_be_deployed_is_in_no_file() {
    let web = Shared::default();
    let host = Host::start(3, web.clone()).await;
    let desk = Desk::new(&[("web", &host)]);
    web.0.facts.lock().unwrap().kexec.disabled = true;
    let (status, said) = desk.run(&["plan", "-o", "web.plan"]);
    assert!(status == 3 && said.contains("web.plan is not written: web: it can't be deployed"), "{said}");
    assert!(!desk.path("web.plan").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_anything_would_change_is_in_the_exit_status() {
    let web = Shared::default();
    let host = Host::start(4, web.clone()).await;
    let desk = Desk::new(&[("web", &host)]);
    let plan = &["plan", "--detailed-exitcode"];
    let (status, said) = desk.run(plan);
    assert_eq!(status, 5, "{said}");
    let (status, said) = desk.run(&["up", "--yes"]);
    assert_eq!(status, 0, "{said}");
    let (status, said) = desk.run(plan);
    assert!(status == 0 && said.contains("web is what run ") && said.contains(" made, from what"), "{said}");
    assert_eq!(desk.run(&["plan"]).0, 0);
    desk.write("payload/deploy", "#!/bin/sh\nanother\n");
    let (status, said) = desk.run(plan);
    assert_eq!(status, 5, "{said}");
    web.0.facts.lock().unwrap().kexec.disabled = true;
    assert_eq!(desk.run(plan).0, 3, "a host that can't be deployed is worse");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_would_stay_as_it_is_can_be_left_out() {
    let web = Shared::default();
    let (web_host, db_host) = (Host::start(5, web.clone()).await, Host::start(6, Shared::default()).await);
    let desk = Desk::new(&[("web", &web_host), ("db", &db_host)]);
    assert_eq!(desk.run(&["up", "--yes", "web"]).0, 0);

    // Each host's word, for programs; all hosts are in the plan unless it is asked otherwise.
    let changes = |more: &[&str]| {
        let (status, said) = desk.run(&[&["plan", "--json"], more].concat());
        let lines = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let changes: Vec<_> = lines.filter(|line| line["type"] == "change").collect();
        let of = |host: &str| changes.iter().find(|line| line["host"] == host).cloned().unwrap_or_default();
        (status, changes.len(), of("web"), of("db"))
    };
    let (status, count, of_web, of_db) = changes(&["--detailed-exitcode"]);
    assert_eq!((status, count, &of_web["changed"], &of_db["changed"]), (5, 2, &false.into(), &true.into()));
    assert!(of_web["made_by"].is_string() && of_db["made_by"].is_null(), "{of_web} {of_db}");
    assert_eq!(changes(&[]).1, 0, "nobody asked");

    let only = &["plan", "--detailed-exitcode", "--only-changed", "-o", "fleet.plan"][..];
    let (status, said) = desk.run(only);
    assert!(status == 5 && said.contains(", and is left out") && said.contains("the plan is in fleet.plan"), "{said}");
    assert!(said.contains("\ndb") && !said.contains("\nweb"), "its plan is not shown: {said}");
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan"]);
    assert_eq!((status, web_host.boots(), db_host.boots()), (0, 1, 1), "{said}");

    fs::remove_file(desk.path("fleet.plan")).unwrap();
    let (status, said) = desk.run(only);
    assert!(status == 0 && said.contains("fleet.plan is not written: no host would be changed"), "{said}");
    assert!(!desk.path("fleet.plan").exists());

    // What can't be deployed is not passed over in silence.
    web.0.facts.lock().unwrap().kexec.disabled = true;
    let (status, said) = desk.run(only);
    assert!(status == 3 && said.contains("fleet.plan is not written: web: it can't be deployed"), "{said}");
}
