//! Holds docs/PROTOCOL.md against the types: the listing between its markers is made from them.

use std::fmt::Write as _;

use anemos_proto::VERSION;
use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::config::{Finish, HostConfig, RunConfig};
use anemos_proto::event::{AgentState, EventKind, Level, Outcome, StepOutcome, Stream, Unit};
use anemos_proto::host::{Firmware, Inside};
use anemos_proto::net::LinkKind;
use anemos_proto::stage::{BaseSource, KernelSource, Proxy, StageReply, StageRequest};
use serde_reflection::{ContainerFormat, Format, Named, Registry, Samples, Tracer, TracerConfig, VariantFormat};

mod samples;

fn registry() -> Registry {
    let mut tracer = Tracer::new(TracerConfig::default().is_human_readable(false));
    let mut seen = Samples::new();
    // The run's id is checked text: tracing needs a true one to start from.
    tracer.trace_value(&mut seen, &samples::run()).unwrap();
    tracer.trace_value(&mut seen, &samples::run_config()).unwrap();
    tracer.trace_type::<std::net::IpAddr>(&seen).unwrap();
    macro_rules! types {
        ($($name:ty),* $(,)?) => { $(tracer.trace_type::<$name>(&seen).unwrap();)* };
    }
    types!(
        AgentState,
        Finish,
        Leaving,
        Firmware,
        Inside,
        Level,
        Outcome,
        StepOutcome,
        Stream,
        Unit,
        BaseSource,
        KernelSource,
        Proxy,
        LinkKind,
        EventKind,
        HostConfig,
        RunConfig,
        AgentRequest,
        AgentReply,
        StageRequest,
        StageReply,
    );
    tracer.registry().unwrap()
}

fn format(format: &Format) -> String {
    match format {
        Format::TypeName(name) => name.clone(),
        Format::Option(inner) => format!("{}?", self::format(inner)),
        Format::Seq(inner) => format!("[{}]", self::format(inner)),
        Format::Tuple(parts) => format!("({})", parts.iter().map(self::format).collect::<Vec<_>>().join(", ")),
        Format::TupleArray { content, size } => format!("[{}; {size}]", self::format(content)),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn fields(named: &[Named<Format>]) -> String {
    named.iter().map(|field| format!("{}: {}", field.name, format(&field.value))).collect::<Vec<_>>().join(", ")
}

fn variant(variant: &VariantFormat) -> String {
    match variant {
        VariantFormat::Unit => String::new(),
        VariantFormat::NewType(inner) => format!("({})", format(inner)),
        VariantFormat::Tuple(parts) => format!("({})", parts.iter().map(format).collect::<Vec<_>>().join(", ")),
        VariantFormat::Struct(named) => format!(" {{ {} }}", fields(named)),
        VariantFormat::Variable(_) => unreachable!("everything is traced"),
    }
}

fn listing() -> String {
    let mut text = String::from("```text\n");
    for (name, container) in registry() {
        match container {
            ContainerFormat::UnitStruct => writeln!(text, "{name} = nothing").unwrap(),
            ContainerFormat::NewTypeStruct(inner) => writeln!(text, "{name} = {}", format(&inner)).unwrap(),
            ContainerFormat::TupleStruct(parts) => {
                writeln!(text, "{name} = ({})", parts.iter().map(format).collect::<Vec<_>>().join(", ")).unwrap();
            }
            ContainerFormat::Struct(named) => {
                writeln!(text, "{name} =").unwrap();
                for field in named {
                    writeln!(text, "    {}: {}", field.name, format(&field.value)).unwrap();
                }
            }
            ContainerFormat::Enum(variants) => {
                writeln!(text, "{name} = one of").unwrap();
                for (index, named) in variants {
                    writeln!(text, "    {index} {}{}", named.name, variant(&named.value)).unwrap();
                }
            }
        }
    }
    text + "```\n"
}

/// `UPDATE_GOLDEN=1` rewrites the listing.
#[test]
fn the_document_lists_the_types() {
    const START: &str = "<!-- types: made by proto/tests/document.rs -->\n";
    const END: &str = "<!-- end of types -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md");
    let document = std::fs::read_to_string(path).unwrap();
    let version = format!("version is {VERSION}.\n");
    assert!(document.contains(&version), "docs/PROTOCOL.md doesn't say that the present {version}");
    let (before, rest) = document.split_once(START).expect("the start marker");
    let (types, after) = rest.split_once(END).expect("the end marker");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{before}{START}{}{END}{after}", listing())).unwrap();
        return;
    }
    assert_eq!(types, listing(), "docs/PROTOCOL.md is not what the types are; UPDATE_GOLDEN=1 rewrites it");
}
