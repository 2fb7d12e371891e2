//! Where the base comes from, and the package archives that it and the payload need.

use anemos_proto::host::HostFacts;
use anemos_proto::stage::{BaseSource, KernelSource};

use super::memory::{self, LITTLE};
use super::{Choices, Upload};
use crate::config::format_bytes;

/// What to write where no archive is known.
const NAME_ONE: &str = "hosts.toml names none, and neither the host's apt nor this machine's does. Say \
    mirror = \"http://…/debian\"";

/// Where this host's base may come from, in this order: what was chosen, without what can't be done here.
pub fn sources(facts: &HostFacts, choices: &Choices) -> Vec<BaseSource> {
    let can_build = has_archive(facts, choices) && has_memory(facts, choices);
    choices.sources.iter().filter(|source| can_build || **source != BaseSource::Build).cloned().collect()
}

/// Those of [`sources`] that come into question: the cache if it has the base, else the others.
fn likely(facts: &HostFacts, choices: &Choices) -> Vec<BaseSource> {
    let cached = is_cached(facts, choices);
    sources(facts, choices).into_iter().filter(|source| cached == matches!(source, BaseSource::Cache)).collect()
}

/// What must be on the host, and whether it is there.
pub(super) fn uploads(facts: &HostFacts, choices: &Choices) -> Vec<Upload> {
    let upload = |what: &str, bytes, cached| Upload { what: what.into(), bytes, cached };
    let blobs = choices.blobs.iter();
    let blobs = blobs.map(|(what, blob)| upload(what, blob.size, facts.cached_blobs.contains(&blob.digest)));
    let mut uploads: Vec<Upload> = std::iter::once(choices.stage.clone()).chain(blobs).collect();
    // Where the host may come by the base otherwise, it isn't sent unless all else fails.
    if let [BaseSource::Cache, BaseSource::Upload(blob)] = &sources(facts, choices)[..] {
        uploads.push(upload("base", blob.size, is_cached(facts, choices)));
    }
    uploads
}

/// Where the base comes from, for people.
pub(super) fn text(facts: &HostFacts, choices: &Choices) -> String {
    let text = |source: &BaseSource| match source {
        BaseSource::Cache => "in the host's cache".into(),
        BaseSource::Urls(_) => "downloaded by the host from the URLs given".into(),
        BaseSource::Build => "built on the host from distribution packages".into(),
        BaseSource::Upload(blob) => format!("uploaded from here ({})", format_bytes(blob.size)),
    };
    match &likely(facts, choices)[..] {
        [] => "from nowhere".into(),
        likely => likely.iter().map(text).collect::<Vec<String>>().join("; should that fail, "),
    }
}

/// Why the base, or the kernel from its lock, can't be had.
pub(super) fn refusals(facts: &HostFacts, choices: &Choices, boots: KernelSource) -> Vec<String> {
    let mut refusals = Vec::new();
    let archive = has_archive(facts, choices);
    if likely(facts, choices).is_empty() {
        refusals.push(if archive {
            let short = memory::of(facts).builds(choices.base_size).err();
            let why = short.map_or_else(|| "the base can be had from nowhere".into(), |short| short.to_string());
            format!("{why}; or say base = \"upload\", which takes less")
        } else {
            format!(
                "no Debian archive is known from which to build the base: {NAME_ONE}; or build the image here with \
                 `anemos base build --mirror URL`, and say base = \"upload\""
            )
        });
    } else if boots == KernelSource::Locked && !archive {
        refusals.push(format!("no Debian archive is known that has the kernel of base.lock: {NAME_ONE}"));
    }
    refusals
}

/// What is to be thought of where no archive is known, or the base isn't built because of the host's memory.
pub(super) fn warnings(facts: &HostFacts, choices: &Choices) -> Vec<String> {
    let mut warnings = Vec::new();
    let likely = likely(facts, choices);
    if likely.is_empty() {
        return warnings;
    }
    if !has_mirror(facts, choices) {
        let base = match likely[0] {
            BaseSource::Build => "each package of the base comes from an archive of past versions, which is slow; ",
            BaseSource::Upload(_) if choices.sources.contains(&BaseSource::Build) => "the base is sent from here; ",
            _ => "",
        };
        warnings.push(format!(
            "no Debian archive is known: {base}ANEMOS_MIRROR will be empty, and a payload that installs from there \
             will fail. Say mirror = \"http://…/debian\" in hosts.toml, unless it needs none"
        ));
    }
    let builds = choices.sources.contains(&BaseSource::Build) && likely[0] != BaseSource::Cache;
    if builds && has_archive(facts, choices) && !has_memory(facts, choices) {
        warnings.push(format!("{LITTLE}the base can't be built on the host, so it is sent from here"));
    }
    warnings
}

/// Whether the host has all images.
fn is_cached(facts: &HostFacts, choices: &Choices) -> bool {
    choices.images.iter().all(|image| facts.cached_bases.contains(image))
}

fn has_mirror(facts: &HostFacts, choices: &Choices) -> bool {
    choices.has_mirror || !facts.mirrors.is_empty()
}

/// Whether anything is known that has the packages of base.lock.
fn has_archive(facts: &HostFacts, choices: &Choices) -> bool {
    has_mirror(facts, choices) || choices.has_snapshot || facts.snapshot.is_some()
}

/// Whether there is the memory to build the base.
fn has_memory(facts: &HostFacts, choices: &Choices) -> bool {
    memory::of(facts).builds(choices.base_size).is_ok()
}

#[cfg(test)]
mod tests {
    use anemos_proto::ids::{BlobRef, Digest};

    use super::super::tests::{choices, facts};
    use super::super::{Plan, judge};
    use super::*;

    const IMAGE: BaseSource = BaseSource::Upload(BlobRef { digest: Digest([7; 32]), size: 40 << 20 });
    const SENT: u64 = 972_000;

    fn chosen(sources: &[BaseSource]) -> Choices {
        let sources = std::iter::once(BaseSource::Cache).chain(sources.iter().cloned()).collect();
        Choices { sources, ..choices() }
    }

    /// The plan for a host whose apt names no archive, nor does anybody else.
    fn without(change: impl FnOnce(&mut HostFacts, &mut Choices), sources: &[BaseSource]) -> (Plan, Vec<BaseSource>) {
        let (mut facts, mut choices) = (facts(), chosen(sources));
        facts.mirrors.clear();
        change(&mut facts, &mut choices);
        (judge(&facts, choices.clone()), super::sources(&facts, &choices))
    }

    #[test]
    fn without_an_archive_the_host_builds_nothing() {
        let (plan, _) = without(|_, _| {}, &[BaseSource::Build]);
        let said = "no Debian archive is known from which to build the base: hosts.toml names none";
        assert!(plan.refusals[0].starts_with(said) && plan.refusals.len() == 1, "{:?}", plan.refusals);
        assert!(plan.refusals[0].contains("mirror = \"http://…/debian\"; or build"), "{:?}", plan.refusals);
        assert_eq!((plan.warnings, &*plan.base_source), (vec![], "from nowhere"));

        // What `auto` has here is sent, and that is what somebody says yes to.
        let (plan, sources) = without(|_, _| {}, &[BaseSource::Build, IMAGE]);
        assert_eq!((&plan.refusals, &*plan.base_source), (&vec![], "uploaded from here (40.0 MiB)"));
        assert_eq!(plan.upload_bytes, SENT + (40 << 20));
        assert_eq!(sources, [BaseSource::Cache, IMAGE], "the stage does not try what can't be");
        assert!(plan.warnings[0].contains("the base is sent from here; ANEMOS_MIRROR will be empty"), "{plan:?}");

        for (what, names) in [
            ("hosts.toml or this machine", (|_, c| c.has_mirror = true) as fn(&mut HostFacts, &mut Choices)),
            ("the host", |f, _| f.mirrors.push("http://mirror.example/debian".into())),
        ] {
            let (plan, sources) = without(names, &[BaseSource::Build, IMAGE]);
            assert_eq!((plan.refusals, plan.warnings, plan.upload_bytes), (vec![], vec![], SENT), "{what}");
            assert_eq!(sources, [BaseSource::Cache, BaseSource::Build, IMAGE], "{what}");
        }
    }

    #[test]
    fn an_archive_of_past_versions_has_the_base_too() {
        for names in [(|_, c| c.has_snapshot = true) as fn(&mut HostFacts, &mut Choices), |f, _| {
            f.snapshot = Some("https://past.example/debian/@SNAPSHOTID@/".into());
        }] {
            let (plan, _) = without(names, &[BaseSource::Build]);
            assert_eq!((&plan.refusals, &*plan.base_source), (&vec![], "built on the host from distribution packages"));
            assert!(
                plan.warnings[0].contains("from an archive of past versions, which is slow"),
                "{:?}",
                plan.warnings
            );
        }
    }

    #[test]
    fn what_the_payload_lacks_is_said() {
        for (sources, change) in [
            (&[IMAGE][..], (|_, _| {}) as fn(&mut HostFacts, &mut Choices)),
            (&[BaseSource::Urls(vec!["http://192.0.2.5/base".into()])], |_, _| {}),
            (&[BaseSource::Build], |f, c| f.cached_bases.extend(&c.images)),
        ] {
            let (plan, _) = without(change, sources);
            assert_eq!(plan.refusals, Vec::<String>::new());
            let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
            assert!(warning.starts_with("no Debian archive is known: ANEMOS_MIRROR will be empty"), "{warning}");
        }
    }

    /// The kernel of base.lock is never sent from here.
    #[test]
    fn the_locked_kernel_comes_from_an_archive() {
        let locked = |_: &mut HostFacts, c: &mut Choices| c.kernel = KernelSource::Locked;
        let unreadable = |f: &mut HostFacts, _: &mut Choices| f.kernel_image = None;
        for plan in [without(locked, &[IMAGE]).0, without(unreadable, &[IMAGE]).0] {
            let said = "no Debian archive is known that has the kernel of base.lock";
            assert!(plan.refusals[0].starts_with(said), "{:?}", plan.refusals);
        }
        let known = without(|f, c| (locked(f, c), c.has_mirror = true).1, &[IMAGE]).0;
        assert_eq!(known.refusals, Vec::<String>::new());
    }

    #[test]
    fn what_the_host_has_no_memory_to_build_is_sent() {
        let busy = HostFacts { memory_available: 150 << 20, ..facts() };
        let plan = judge(&busy, chosen(&[BaseSource::Build]));
        let said = "building the base takes 192 MiB of memory, and 150 MiB are available now";
        assert!(plan.refusals[0].starts_with(said) && plan.refusals[0].ends_with("which takes less"), "{plan:?}");
        let plan = judge(&busy, chosen(&[BaseSource::Build, IMAGE]));
        assert_eq!((&plan.refusals, plan.upload_bytes), (&vec![], SENT + (40 << 20)));
        assert!(plan.warnings[0].starts_with("little memory: the base can't be built on the host"), "{plan:?}");
        let cached = HostFacts { cached_bases: choices().images, ..busy };
        let plan = judge(&cached, chosen(&[BaseSource::Build]));
        assert_eq!((plan.refusals, plan.warnings, plan.upload_bytes), (vec![], vec![], SENT));
    }
}
