//! Every macro under another name of the package, beside a module called `trace`, without a
//! prelude, and where each warning is an error.

#![deny(warnings)]
#![deny(missing_docs, unused_qualifications, unsafe_code)]

/// What a program of this name may hold.
mod trace {
    /// Not the recorder's.
    pub fn span() -> u32 {
        7
    }
}

/// Names that the macros must not take for theirs.
#[no_implicit_prelude]
mod bare {
    /// A name that a macro might use inside.
    pub const SITE: u32 = 5;

    /// Each macro once, in each of its forms.
    pub fn all(name: &::std::string::String) {
        ::xt::instant!("instant", number = SITE, text = name, float = 1.5f32,);
        ::xt::counter!("counter", SITE);
        let task = ::xt::task!("task", number = SITE);
        let child = ::xt::task!(parent: task, "child");
        let _current = task.enter();
        let _span = ::xt::span!("span", number = SITE);
        let _other = ::xt::span!(task: child, "other", number = SITE,);
        ::xt::log!(category, "a text of {name} and {}", SITE);
        ::xt::log!("quoted", "plain");
        ::xt::log!(task: child, category, "of a child");
    }
}

/// A sink that tells how much it got.
struct Sink(std::sync::mpsc::Sender<usize>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() {
    let (send, receive) = std::sync::mpsc::channel();
    bare::all(&String::from("nobody"));
    xt::start(Sink(send)).unwrap();
    bare::all(&String::from("somebody"));
    let value = xt::span("closure", trace::span);
    let summary = xt::stop().unwrap();
    let bytes: usize = receive.iter().sum();
    assert_eq!(summary.bytes, bytes as u64);
    println!("events {} value {value}", summary.events);
}
