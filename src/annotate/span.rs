//! Spans: nested stretches of time of one thread.

use std::marker::PhantomData;
use std::panic::Location;

use crate::annotate::value::Values;
use crate::emit;
use crate::emit::Emission;
use crate::emit::Hand;
use crate::emit::Outcome;
use crate::encode::schema::Cause;
use crate::encode::schema::Class;
use crate::encode::schema::Kind;
use crate::encode::varint;
use crate::mapping::record::HOLES;
use crate::mapping::record::Record;
use crate::owner;
use crate::owner::Answer;
use crate::registry;
use crate::registry::local;
use crate::registry::local::Local;
use crate::site::Meta;
use crate::site::Site;
use crate::site::Types;
use crate::sync::AtomicPtr;
use crate::sync::Ordering::AcqRel;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;

/// An open span of this thread; it ends when this guard is dropped.
///
/// Ends in any order are recorded truly: a span that is not the innermost says which one it was. A
/// guard that outlives its session ends in silence. While recording is off a guard costs nothing.
///
/// A span belongs to its thread: its guard cannot be sent to another one, nor held over an `await`
/// in a future that may move. What moves between threads is a [`Task`](crate::Task).
///
/// ```compile_fail,E0277
/// fn sent<T: Send>(_: T) {}
/// sent(trace::span!("load"));
/// ```
///
/// ```compile_fail
/// async fn load() {
///     let _span = trace::span!("load");
///     std::future::ready(()).await;
/// }
/// fn sent<T: Send>(_: T) {}
/// sent(load());
/// ```
#[must_use = "a span ends when its guard is dropped: bind it to a name, such as _span"]
#[derive(Debug)]
pub struct Span {
    /// Ordinal of the session; 0: was not recorded.
    session: u32,
    /// Its place among the open spans of the thread; `NESTED` inside another event.
    place: u32,
    /// A span belongs to its thread.
    _thread: PhantomData<*const ()>,
}

/// No place: the one after it is no depth that a thread can have.
pub(crate) const NESTED: u32 = HOLES - 1;

/// Beside the place of a span in another copy's session: so the place after it is no depth here.
const ELSEWHERE: u32 = 1 << 30;

impl Span {
    /// The span of a place that is not recorded now.
    pub const OFF: Span = Span { session: 0, place: 0, _thread: PhantomData };

    /// Begins a span. The switch was seen on.
    #[doc(hidden)]
    #[inline(always)]
    pub fn begin<V: Values>(site: &'static Site, values: V) -> Span {
        Span::begin_told(site, values).0
    }

    /// The same, and what became of the event: for tests that account for every event.
    #[doc(hidden)]
    #[inline(always)]
    pub fn begin_told<V: Values>(site: &'static Site, values: V) -> (Span, Outcome) {
        let place = local::with(|l| emit::standing(l).1) & !HOLES;
        let outcome = emit::emit(Begin { site, values });
        let span = match outcome {
            Outcome::Recorded => {
                Span { session: local::with(|l| l.session.get()), place, _thread: PhantomData }
            }
            Outcome::Nested => Span { session: 1, place: NESTED, _thread: PhantomData },
            Outcome::Delegated => Span::delegated(),
            _ => Span::OFF,
        };
        (span, outcome)
    }

    /// The innermost span that the copy which owns the recording has of this thread. Asked for,
    /// so that nothing is kept between the event and here: a handler may begin and end a span.
    #[cold]
    fn delegated() -> Span {
        let Some(to) = owner::table() else { return Span::OFF };
        let place = (to.span_place)() | ELSEWHERE;
        Span { session: owner::session(to), place, _thread: PhantomData }
    }

    /// The place of the calling thread's innermost span.
    pub(crate) fn innermost() -> u32 {
        (local::with(|l| emit::standing(l).1) & !HOLES).wrapping_sub(1) & !ELSEWHERE
    }

    /// Its session and its place, for whom they are kept.
    pub(crate) fn into_parts(self) -> (u32, u32) {
        let span = std::mem::ManuallyDrop::new(self);
        (span.session, span.place)
    }

    /// The span of these.
    pub(crate) fn from_parts(session: u32, place: u32) -> Span {
        Span { session, place, _thread: PhantomData }
    }

    /// Ends it and says what became of the event.
    #[doc(hidden)]
    pub fn end_told(self) -> Outcome {
        let mut span = std::mem::ManuallyDrop::new(self);
        span.end()
    }

    #[inline(always)]
    fn end(&mut self) -> Outcome {
        if self.session == 0 || !registry::is_on() {
            return Outcome::Off;
        }
        let (session, place) = (self.session, self.place);
        // With holes in it the depth is no place's next.
        let depth = local::with(|l| emit::standing(l).1);
        if depth == place + 1 {
            emit::emit(End { session })
        } else {
            end_elsewhere(session, place, depth)
        }
    }
}

impl Drop for Span {
    #[inline(always)]
    fn drop(&mut self) {
        self.end();
    }
}

#[cold]
fn end_elsewhere(session: u32, place: u32, depth: u32) -> Outcome {
    if registry::is_delegated(session) {
        let Some(to) = owner::table() else { return Outcome::Off };
        let ended = (to.span_end)(session & !registry::DELEGATED, place & !ELSEWHERE);
        return emit::told(Answer::from_word(ended));
    }
    if let Some(to) = owner::table()
        && place == NESTED
        && owner::alone(None)
    {
        return emit::told(Answer::from_word((to.span_end)(session, place)));
    }
    if place == NESTED {
        // Still inside the event that it was begun in: its end goes where its begin went.
        if local::with(|l| l.registered() && l.busy().load(Relaxed) != 0) {
            return emit::emit(emit::Plain { kind: Kind::SpanEnd, fields: [] });
        }
    } else if place < depth & !HOLES {
        let innermost = place + 1 == depth & !HOLES;
        let before = place - local::with(|l| l.ended_below(place));
        return emit::emit(EndAt { session, place, before, innermost });
    }
    Outcome::Off
}

/// The event that begins a span.
#[derive(Clone, Copy)]
struct Begin<V> {
    site: &'static Site,
    values: V,
}

impl<V: Values> Emission for Begin<V> {
    #[inline(always)]
    fn len_max(&self) -> usize {
        self.values.len_max()
    }

    #[inline(always)]
    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        self.site.plain_kind(l.tag.get())
    }

    #[inline(always)]
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        // SAFETY: the caller's duty is the same.
        unsafe { self.values.put(p) }
    }

    #[inline(always)]
    fn after(&self, l: &Local) {
        let Some(r) = l.record() else { return };
        let depth = r.depth.load(Relaxed);
        match r.spans.get((depth & !HOLES) as usize) {
            Some(span) => span.store(self.site.word(), Relaxed),
            None => r.lose(Cause::SpanDepth),
        }
        r.depth.store(depth + 1, Relaxed);
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        Some((self.site, self.values.types()))
    }

    fn from(&self) -> usize {
        self.values.from()
    }

    fn hand(&self, l: &Local, by: &Hand) -> Option<Outcome> {
        Some(begin_at_owner(l, by, self.site, V::TYPES, self))
    }
}

/// Begins a span at the owner; beside one of the own session it is remembered where.
#[cold]
fn begin_at_owner(
    l: &Local,
    by: &Hand,
    site: &'static Site,
    types: Types,
    e: &dyn Emission,
) -> Outcome {
    match by.own {
        None => {}
        // Its end would not find it.
        Some((Outcome::Recorded, place)) if place as usize >= local::ELSEWHERE_MAX => {
            return emit::told(by.lose(Cause::SpanDepth));
        }
        Some((Outcome::Recorded, _)) => {}
        Some((Outcome::Lost(cause), _)) => return emit::told(by.lose(cause)),
        // Its guard has no place to keep the owner's.
        Some((Outcome::Nested, _)) => return emit::told(by.lose(Cause::Nested)),
        Some(_) => return Outcome::Off,
    }
    let Some(site) = owner::site(by.to, site, types) else {
        return Outcome::Lost(Cause::SiteTable);
    };
    let event = emit::event(&e, by.sp);
    // SAFETY: the owner's own name for the site; the event is good until the call returns.
    let answer = Answer::from_word(unsafe { (by.to.span_begin)(site, &event) });
    let place = if let Answer::Recorded(place) = answer { place + 1 } else { 0 };
    match by.own {
        None if place != 0 => Outcome::Delegated,
        None => emit::told(answer),
        Some((_, own)) => {
            if let Some(elsewhere) = l.elsewhere.get(own as usize) {
                elsewhere.set(place);
            }
            emit::told(answer)
        }
    }
}

/// Ends at the owner the span that has this place in the own session.
#[cold]
fn end_at_owner(l: &Local, by: &Hand, own: u32) -> Outcome {
    let place = l.elsewhere.get(own as usize).map_or(0, |place| place.replace(0));
    if place == 0 {
        return Outcome::Off;
    }
    emit::told(Answer::from_word((by.to.span_end)(by.session(), place - 1)))
}

/// The event that ends the innermost span.
#[derive(Clone, Copy)]
struct End {
    session: u32,
}

impl Emission for End {
    #[inline(always)]
    fn len_max(&self) -> usize {
        0
    }

    #[inline(always)]
    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        (l.session.get() == self.session).then_some((Kind::SpanEnd as u32, 1))
    }

    #[inline(always)]
    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        p
    }

    #[inline(always)]
    fn after(&self, l: &Local) {
        let Some(r) = l.record() else { return };
        let depth = r.depth.load(Relaxed);
        r.depth.store(depth.saturating_sub(1), Relaxed);
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }

    fn changes(&self) -> Option<u32> {
        Some(self.session)
    }

    fn is_stale(&self, l: &Local) -> bool {
        l.session.get() != self.session
    }

    fn hand(&self, l: &Local, by: &Hand) -> Option<Outcome> {
        let (_, places) = by.own?;
        Some(end_at_owner(l, by, places.wrapping_sub(1)))
    }
}

/// The event that ends a span where some end out of order.
#[derive(Clone, Copy)]
struct EndAt {
    session: u32,
    place: u32,
    /// Spans that are still open and were opened before it.
    before: u32,
    innermost: bool,
}

impl EndAt {
    /// Gives the place up, and those below it that have ended before.
    fn close(self, l: &Local, r: &Record) {
        let mut places = r.depth.load(Relaxed) & !HOLES;
        if !self.innermost && l.set_ended(self.place, true) {
            if let Some(span) = r.spans.get(self.place as usize) {
                span.store(0, Relaxed);
            }
        } else {
            // Beyond the places whose ends can be kept, the guards above are one off from here on.
            places = places.saturating_sub(1);
            while places > 0 && l.has_ended(places - 1) {
                places -= 1;
                l.set_ended(places, false);
            }
        }
        let holes = if l.ended_below(places) == 0 { 0 } else { HOLES };
        r.depth.store(places | holes, Relaxed);
    }
}

impl Emission for EndAt {
    fn len_max(&self) -> usize {
        varint::LEN_MAX
    }

    fn kind(&self, l: &Local) -> Option<(u32, usize)> {
        let kind = if self.innermost { Kind::SpanEnd } else { Kind::SpanEndAt };
        (l.session.get() == self.session).then_some((kind as u32, 1))
    }

    unsafe fn put(&self, p: *mut u8) -> *mut u8 {
        if self.innermost {
            return p;
        }
        // SAFETY: the caller has checked room for a varint.
        unsafe { emit::put_varint(p, self.before.into()) }
    }

    fn after(&self, l: &Local) {
        if let Some(r) = l.record() {
            self.close(l, r);
        }
    }

    fn site(&self) -> Option<(&'static Site, Types)> {
        None
    }

    fn changes(&self) -> Option<u32> {
        Some(self.session)
    }

    fn is_stale(&self, l: &Local) -> bool {
        l.session.get() != self.session
    }

    fn hand(&self, l: &Local, by: &Hand) -> Option<Outcome> {
        by.own?;
        Some(end_at_owner(l, by, self.place))
    }
}

/// Runs `f` inside a span of this name and returns its value.
///
/// The span's site is the place of the call. Costs a look-up of some nanoseconds more than
/// [`span!`](crate::span!); the first call at a place allocates. While recording is off: one load
/// and one branch.
///
/// ```
/// let sum = trace::span("add", || 2 + 2);
/// assert_eq!(sum, 4);
/// ```
#[inline]
#[track_caller]
pub fn span<R>(name: &'static str, f: impl FnOnce() -> R) -> R {
    let _span = if registry::is_on() { begin_at(name, Location::caller()) } else { Span::OFF };
    f()
}

#[inline(never)]
fn begin_at(name: &'static str, at: &'static Location<'static>) -> Span {
    match site_at(name, at) {
        Some(site) => Span::begin(site, ()),
        None => {
            emit::lose(Cause::SiteTable);
            Span::OFF
        }
    }
}

/// A site that was made at run time, found again by its name and place.
struct Made {
    name: &'static str,
    at: &'static Location<'static>,
    site: Site,
}

/// Places that call `span()`; a power of two, and never more than half full.
const PLACES: usize = 4096;
static MADE: [AtomicPtr<Made>; PLACES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];

/// Lock-free, open addressing with linear probing; entries are never removed.
fn site_at(name: &'static str, at: &'static Location<'static>) -> Option<&'static Site> {
    let key = (name.as_ptr().addr() ^ std::ptr::from_ref(at).addr().rotate_left(17)) as u64;
    let hash = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize;
    for probe in 0..PLACES / 2 {
        let slot = &MADE[(hash + probe) % PLACES];
        // Acquire: pairs with the Release that put the entry there.
        let mut found = slot.load(Acquire);
        if found.is_null() {
            let meta = Meta {
                class: Class::Span,
                name,
                module: "",
                file: at.file(),
                line: at.line(),
                flags: 0,
                fields: &[],
            };
            let made = Box::into_raw(Box::new(Made { name, at, site: Site::new(meta) }));
            // AcqRel: publishes the entry, or finds another's.
            match slot.compare_exchange(std::ptr::null_mut(), made, AcqRel, Acquire) {
                Ok(_) => found = made,
                Err(other) => {
                    // SAFETY: made above and never published.
                    drop(unsafe { Box::from_raw(made) });
                    found = other;
                }
            }
        }
        // SAFETY: not null, and entries are never freed.
        let made = unsafe { &*found };
        if std::ptr::eq(made.at, at) && std::ptr::eq(made.name, name) {
            return Some(&made.site);
        }
    }
    None
}
