//! The macros. Their arguments are evaluated only while recording is on, and before the section.
//!
//! 1. Items and constants are not hygienic: every name that an expansion defines, or matches, MUST
//!    begin with underscores. Otherwise a program's own constant of that name is taken for it.
//! 2. Every path MUST be written in full, `Some` and `None` too: a program may have no prelude.

/// Makes the static of a place.
#[doc(hidden)]
#[macro_export]
macro_rules! __site {
    ($class:ident, $text:expr, $flags:expr, [$($field:expr),*]) => {
        static __SITE: $crate::__private::Site = $crate::__private::Site::new(
            $crate::__private::Meta {
                class: $crate::__private::Class::$class,
                name: $text,
                module: ::core::module_path!(),
                file: ::core::file!(),
                line: ::core::line!(),
                flags: $flags,
                fields: &[$($crate::__private::plain($field)),*],
            },
        );
    };
}

/// Records that something happened.
///
/// `instant!("name", key = value, ..)`; values are integers, floats, booleans and strings. While
/// recording is off: one load, one branch, and the values are not evaluated. On: about 13 ns.
///
/// ```
/// trace::instant!("cache miss", key = 17, shard = "eu");
/// ```
#[macro_export]
macro_rules! instant {
    ($name:expr $(, $key:ident = $value:expr)* $(,)?) => {{
        if $crate::is_enabled() {
            $crate::__site!(Instant, $name, 0, [$(::core::stringify!($key)),*]);
            match ($($crate::__private::Arg::ready(&$value),)*) {
                __values => { $crate::__private::mark(&__SITE, __values); }
            }
        }
    }};
}

/// Records the value of a counter at this moment.
///
/// ```
/// trace::counter!("queue length", 12);
/// ```
#[macro_export]
macro_rules! counter {
    ($name:expr, $value:expr $(,)?) => {{
        if $crate::is_enabled() {
            $crate::__site!(Counter, $name, 0, ["value"]);
            match ($crate::__private::Arg::ready(&$value),) {
                __values => {
                    $crate::__private::mark(&__SITE, __values);
                }
            }
        }
    }};
}

/// Records a text with a category; it belongs to the thread's current task, or to one that is
/// named: `log!(task: t, category, "text {}", x)`.
///
/// The category is a name or a string. A text of more than 32 KiB is cut and says so. A panic while
/// formatting is counted as a loss and goes no further.
///
/// ```
/// trace::log!(net, "connected to {} in {} ms", "db-1", 12);
/// trace::log!("net", "closed");
/// ```
#[macro_export]
macro_rules! log {
    (task: $task:expr, $category:ident, $($text:tt)+) => {
        $crate::log!(
            @ ::core::option::Option::Some($task.id()), 2, ["task", "text"],
            $crate::__private::plain(::core::stringify!($category)), $($text)+
        )
    };
    (task: $task:expr, $category:literal, $($text:tt)+) => {
        $crate::log!(
            @ ::core::option::Option::Some($task.id()), 2, ["task", "text"], $category, $($text)+
        )
    };
    (@ $task:expr, $flags:expr, [$($field:expr),*], $category:expr, $($text:tt)+) => {{
        if $crate::is_enabled() {
            $crate::__site!(Log, $category, $flags, [$($field),*]);
            $crate::__private::log(&__SITE, $task, ::core::format_args!($($text)+));
        }
    }};
    ($category:ident, $($text:tt)+) => {
        $crate::log!(
            @ ::core::option::Option::None, 0, ["text"],
            $crate::__private::plain(::core::stringify!($category)), $($text)+
        )
    };
    ($category:literal, $($text:tt)+) => {
        $crate::log!(@ ::core::option::Option::None, 0, ["text"], $category, $($text)+)
    };
}

/// Begins a span on this thread; it ends when the guard is dropped.
///
/// `span!("name", key = value, ..)`, or `span!(task: t, "name", ..)` for a task that is not the
/// thread's current one. See [`Span`](crate::Span).
///
/// ```
/// let _span = trace::span!("parse", bytes = 512);
/// ```
#[macro_export]
macro_rules! span {
    (task: $task:expr, $name:expr $(, $key:ident = $value:expr)* $(,)?) => {{
        if $crate::is_enabled() {
            $crate::__site!(Span, $name, 2, ["task" $(, ::core::stringify!($key))*]);
            let __task = $crate::__private::TaskId($task.id());
            match (__task, $($crate::__private::Arg::ready(&$value),)*) {
                __values => $crate::Span::begin(&__SITE, __values),
            }
        } else {
            $crate::Span::OFF
        }
    }};
    ($name:expr $(, $key:ident = $value:expr)* $(,)?) => {{
        if $crate::is_enabled() {
            $crate::__site!(Span, $name, 0, [$(::core::stringify!($key)),*]);
            match ($($crate::__private::Arg::ready(&$value),)*) {
                __values => $crate::Span::begin(&__SITE, __values),
            }
        } else {
            $crate::Span::OFF
        }
    }};
}

/// Begins a task: a logical operation that may move between threads. See [`Task`](crate::Task).
///
/// Its parent is the thread's current task, or `task!(parent: p, "name", ..)` names one.
///
/// ```
/// let task = trace::task!("request", path = "/index.html");
/// let worker = std::thread::spawn(move || {
///     let _current = task.enter();
///     trace::log!(http, "working");
/// });
/// worker.join().unwrap();
/// ```
#[macro_export]
macro_rules! task {
    (parent: $parent:expr, $name:expr $(, $key:ident = $value:expr)* $(,)?) => {
        $crate::task!(@ ::core::option::Option::Some($parent.id()), $name $(, $key = $value)*)
    };
    (@ $parent:expr, $name:expr $(, $key:ident = $value:expr)*) => {{
        if $crate::is_enabled() {
            $crate::__site!(Task, $name, 0, ["task", "parent" $(, ::core::stringify!($key))*]);
            match ($($crate::__private::Arg::ready(&$value),)*) {
                __values => $crate::__private::begin_task(&__SITE, $parent, __values),
            }
        } else {
            $crate::Task::OFF
        }
    }};
    ($name:expr $(, $key:ident = $value:expr)* $(,)?) => {
        $crate::task!(@ ::core::option::Option::None, $name $(, $key = $value)*)
    };
}
