//! Kinds of events as people name them.

use std::borrow::Cow;

use trace::encode::schema::Class;
use trace_decode::Event;
use trace_decode::Timed;
use trace_decode::Value;
use trace_decode::tables::Site;

use crate::json;

/// The site of the event itself.
pub fn site_of<'a>(event: &Timed<'a>) -> Option<&'a Site> {
    match &event.event() {
        Event::Site(site) => Some(site.site),
        _ => None,
    }
}

/// The task that an event belongs to: the one that it names, or its thread's current one; 0 none.
pub fn task_of(event: &Timed<'_>) -> u64 {
    /// The site's flag for a first field that names the task.
    const NAMES_TASK: u64 = 2;
    match &event.event() {
        Event::Site(site)
            if site.site.flags & NAMES_TASK != 0 || site.site.class() == Some(Class::Task) =>
        {
            match site.fields().next() {
                Some((_, Value::Task(task))) => task,
                _ => event.task,
            }
        }
        Event::TaskSwitch(switch) if switch.task != 0 => switch.task,
        Event::TaskEnd(end) => end.task,
        _ => event.task,
    }
}

/// The kind as output has it.
pub fn kind_name<'a>(event: &Timed<'a>) -> Cow<'a, str> {
    match &event.event() {
        Event::Site(site) => Cow::Borrowed(match site.site.class() {
            Some(Class::Instant) => "Instant",
            Some(Class::Counter) => "Counter",
            Some(Class::Log) => "Log",
            Some(Class::Span) => "SpanBegin",
            Some(Class::Task) => "TaskBegin",
            None => "Site",
        }),
        Event::Other(other) => match other.def {
            Some(def) => json::lossy(&def.name),
            None => Cow::Owned(other.kind.to_string()),
        },
        known => Cow::Borrowed(known.kind_name().unwrap_or("unknown")),
    }
}

/// Whether the event is of the kind that a person named: as output has it, a class of sites, or
/// class and name.
pub fn is_kind(event: &Timed<'_>, wanted: &str) -> bool {
    if kind_name(event).eq_ignore_ascii_case(wanted) {
        return true;
    }
    let Event::Site(site) = &event.event() else { return false };
    let Some(class) = site.site.class() else { return false };
    match wanted.split_once(':') {
        None => class.name().eq_ignore_ascii_case(wanted),
        Some((wanted_class, name)) => {
            class.name().eq_ignore_ascii_case(wanted_class)
                && event.name().is_some_and(|n| n.bytes == name.as_bytes())
        }
    }
}
