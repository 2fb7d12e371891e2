//! How far a package manager is, from what it prints.

use crate::command::{Context, Tool};
use crate::problem::Problem;

/// What a line says of progress, if anything: how much is done, of how much (0 if that is not known), and what.
pub type Step<'a> = Option<(u64, u64, &'a str)>;

/// Runs a package manager, which must succeed. `read` finds progress in its lines. If it fails, the first line that
/// begins with one of `errors` is the reason, because the errors after it only follow from that.
///
/// # Errors
/// What it said.
pub fn watch(
    context: &Context,
    name: &str,
    tool: Tool,
    mut read: impl FnMut(&str) -> Step<'_>,
    errors: &[&str],
) -> Result<(), Problem> {
    let mut error: Option<String> = None;
    let mut more = false;
    let ended = tool.watch(context, |line| {
        context.report.output(line);
        if let Some((done, total, what)) = read(line) {
            context.report.progress(done, total, what);
        }
        let said = errors.iter().find_map(|head| line.strip_prefix(head));
        match (&mut error, said) {
            (None, Some(said)) => {
                more = said.ends_with(':');
                error = Some(said.to_owned());
            }
            // `unable to select packages:`, and then which.
            (Some(error), None) if more => {
                more = false;
                error.push(' ');
                error.push_str(line.trim());
            }
            _ => {}
        }
    })?;
    ended.map_err(|ended| match error {
        Some(said) => Problem::build(format!("{name}: {said}")),
        None => ended.problem(name),
    })
}

/// `(3/12) Installing foo (1.2-r0)`, as apk(8) has it.
pub fn counted(line: &str) -> Step<'_> {
    let (numbers, what) = line.strip_prefix('(')?.split_once(')')?;
    let (done, total) = numbers.split_once('/')?;
    let what = what.trim().split(" (").next().unwrap_or_default();
    Some((done.trim().parse().ok()?, total.trim().parse().ok()?, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted() {
        assert_eq!(counted("( 3/12) Installing musl (1.2.5-r0)"), Some((3, 12, "Installing musl")));
        assert_eq!(counted("(12/12) Installing busybox (1.36.1-r2)"), Some((12, 12, "Installing busybox")));
        assert_eq!(counted("(a/b) c"), None);
        assert_eq!(counted("OK: 8 MiB in 15 packages"), None);
    }
}
