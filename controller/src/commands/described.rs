//! `anemos completions` and the manual pages: both are made from the commands as they are.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;

use super::{CommandError, Status};
use crate::cli::Cli;

/// What both are about.
const NAME: &str = "anemos";

pub(super) fn completions(shell: clap_complete::Shell) -> Status {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    // That its reader has gone is no error.
    let _ = std::io::stdout().write_all(&script);
    Status::Done
}

pub(super) fn man_pages(directory: &Path) -> Result<Status, CommandError> {
    let command = Cli::command().name(NAME).disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory)
        .map_err(|error| CommandError::bad_input(format!("writing into {}: {error}", directory.display())))?;
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        man_pages(dir.path()).unwrap();
        let mut pages: Vec<String> =
            dir.path().read_dir().unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
        pages.sort();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("anemos-{}.1", command.get_name());
            assert!(pages.contains(&name), "{name} is not among {pages:?}");
        }
        let page = std::fs::read_to_string(dir.path().join("anemos-runs-prune.1")).unwrap();
        assert!(page.contains("anemos runs prune \\-\\-keep 20"), "{page}");
        assert!(std::fs::read_to_string(dir.path().join("anemos.1")).unwrap().contains("CLICOLOR_FORCE"));
        let error = man_pages(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.status, Status::BadInput);
    }
}
