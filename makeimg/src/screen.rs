//! What the user sees: a bar on a terminal, plain lines elsewhere, or JSON.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use makeimg::problem::Problem;
use makeimg::report::Event;

/// Lines of a failed step that are shown where not all are.
const LAST: usize = 15;

/// Where events are shown.
pub struct Screen {
    json: bool,
    verbose: bool,
    bar: Option<ProgressBar>,
    begun: Instant,
    step: Option<(String, Instant)>,
    last: VecDeque<String>,
}

impl Screen {
    pub fn new(json: bool, verbose: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { json, verbose, bar, begun: Instant::now(), step: None, last: VecDeque::new() }
    }

    /// Shows what keeps the build from beginning.
    pub fn problems(&mut self, problems: &[Problem]) {
        problems.iter().map(Event::from).for_each(|event| self.show(&event));
    }

    /// Shows what is hardly meant.
    pub fn warnings(&mut self, warnings: &[Problem]) {
        warnings.iter().map(|warning| Event::Warning { text: warning.to_string() }).for_each(|event| self.show(&event));
    }

    /// Shows what happened.
    pub fn show(&mut self, event: &Event) {
        if self.json {
            if let Ok(line) = serde_json::to_string(event) {
                say(&line);
            }
            return;
        }
        match event {
            Event::Step { name } => {
                self.end_step();
                self.step = Some((name.clone(), Instant::now()));
                self.last.clear();
                match &self.bar {
                    Some(bar) => self.draw(bar, 0, 0, ""),
                    None => self.line(name),
                }
            }
            Event::Progress { done, total, what } => {
                if let Some(bar) = &self.bar {
                    self.draw(bar, *done, *total, what);
                }
            }
            Event::Output { line } => {
                let line = harmless(line);
                if self.verbose {
                    self.line(&format!("    {line}"));
                    return;
                }
                self.last.push_back(line);
                if self.last.len() > LAST {
                    self.last.pop_front();
                }
            }
            Event::Warning { text } => self.line(&format!("warning: {}", harmless(text))),
            Event::Failed { path, line, text, hint, step } => {
                let name = step.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                for line in std::mem::take(&mut self.last) {
                    self.line(&format!("    {line}"));
                }
                let place = path.as_ref().map(|path| match line {
                    Some(line) => format!("{path}:{line}: "),
                    None => format!("{path}: "),
                });
                let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                let text = format!("{}{text}{hint}", place.unwrap_or_default());
                let text: Vec<String> = text.lines().map(harmless).collect();
                self.end_bar();
                self.line(&format!("makeimg: error{name}: {}", text.join("\n")));
            }
            Event::Built { output } => {
                self.end_step();
                self.end_bar();
                let seconds = self.begun.elapsed().as_secs_f32();
                match output {
                    Some(output) => say(output),
                    None => self.line("built"),
                }
                self.line(&format!("built in {seconds:.1} s"));
            }
        }
    }

    fn draw(&self, bar: &ProgressBar, done: u64, total: u64, what: &str) {
        let step = self.step.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
        let template = if total > 0 {
            "{spinner} {prefix}  {bar:24} {pos}/{len}  {wide_msg}"
        } else {
            "{spinner} {prefix}  {wide_msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_length(total);
        bar.set_position(done);
        bar.set_prefix(step.to_owned());
        bar.set_message(harmless(what));
    }

    fn end_step(&mut self) {
        if let Some((name, begun)) = self.step.take()
            && self.bar.is_some()
        {
            self.line(&format!("{name}  {:.1} s", begun.elapsed().as_secs_f32()));
        }
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }
}

/// Tells a line to who reads the output. A reader that has gone is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Without what moves a terminal's cursor or changes its colours.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
