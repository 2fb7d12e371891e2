//! Whether a payload can run in a RAM system that was composed for another one.

use serde::{Deserialize, Serialize};

use super::Needs;

/// What the RAM system of a host has for payloads. It stays as it is until the host leaves RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ram {
    /// The groups of the base that are there.
    pub groups: Vec<String>,
    /// These are what somebody named or an IMGBUILD implied, and not all that are usual.
    pub chosen: bool,
    /// What hosts.toml names in place of a payload's own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_host: Option<Vec<String>>,
    /// Whether the agent can build an IMGBUILD.
    pub imgbuild: bool,
}

/// What is wrong with a payload in a RAM system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It can't run there, because …
    Lacks(String),
    /// It may lack something, because …
    Unknown(String),
}

impl Ram {
    /// What is wrong with running a payload there, if something is.
    pub fn misfit(&self, needs: &Needs, is_imgbuild: bool) -> Option<Misfit> {
        if is_imgbuild && !self.imgbuild {
            let why = "the payload is an IMGBUILD, and the deployment began with a script: the agent that was sent \
                       for it can't build one";
            return Some(Misfit::Lacks(why.into()));
        }
        let there = self.groups.join(", ");
        let Some(wanted) = needs.with(self.of_host.as_ref()) else {
            let why = format!("the payload doesn't say which groups of the base it needs, and only {there} are in RAM");
            return self.chosen.then_some(Misfit::Unknown(why));
        };
        let lacking: Vec<String> = wanted.into_iter().filter(|group| !self.groups.contains(group)).collect();
        if lacking.is_empty() {
            return None;
        }
        let why = format!(
            "the payload needs groups of the base that are not in RAM: {} (there are {there})",
            lacking.join(", ")
        );
        Some(Misfit::Lacks(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn needs(named: Option<&str>, implied: Option<&str>) -> Needs {
        Needs { named: named.map(words), implied: implied.map(words) }
    }

    #[test]
    fn a_payload_gets_no_more_than_is_there() {
        let ram = Ram { groups: words("core disk tools"), chosen: true, of_host: None, imgbuild: false };
        let lacks = |why: &str| Some(Misfit::Lacks(why.into()));
        assert_eq!(ram.misfit(&needs(Some("disk core"), None), false), None);
        assert_eq!(ram.misfit(&needs(Some(""), None), false), None);
        assert_eq!(
            ram.misfit(&needs(Some("volumes disk arch"), None), false),
            lacks(
                "the payload needs groups of the base that are not in RAM: arch, volumes (there are core, disk, tools)"
            )
        );
        let nothing_said = "the payload doesn't say which groups of the base it needs, and only core, disk, tools are \
                            in RAM";
        assert_eq!(ram.misfit(&needs(None, None), false), Some(Misfit::Unknown(nothing_said.into())));
        // Where all was sent, a payload that says nothing has what it would get from `up`.
        let all = Ram { chosen: false, ..ram.clone() };
        assert_eq!(all.misfit(&needs(None, None), false), None);
        // hosts.toml's word counts in place of the file's, as it did in `up`.
        let of_host = Ram { of_host: Some(words("disk")), ..ram };
        assert_eq!(of_host.misfit(&needs(Some("volumes"), None), false), None);
        assert_eq!(of_host.misfit(&needs(None, None), false), None);
    }

    #[test]
    fn an_imgbuild_needs_its_agent_and_its_groups() {
        let script = Ram { groups: words("core debian disk tools"), chosen: false, of_host: None, imgbuild: false };
        let debian = needs(None, Some("debian disk tools"));
        let Some(Misfit::Lacks(why)) = script.misfit(&debian, true) else { panic!("it can't be built") };
        assert!(why.contains("began with a script"), "{why}");
        let imgbuild = Ram { imgbuild: true, ..script };
        assert_eq!(imgbuild.misfit(&debian, true), None);
        let Some(Misfit::Lacks(why)) = imgbuild.misfit(&needs(None, Some("arch disk tools")), true) else {
            panic!("pacman is not there")
        };
        assert!(why.contains("not in RAM: arch (there are"), "{why}");
    }
}
