//! Threads that are born and die: joined, detached, without a goodbye, with late words.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::ledger::Ledger;
use super::random::Rng;
use super::round::Inside;
use super::round::Round;
use super::work;
use super::work::Worker;
use super::work::emit_one;

/// Places of a short thread's ledger.
const PLACES: usize = 1 << 9;

/// Makes a thread of some sort. `l`: who makes it.
pub fn birth(round: &Arc<Round>, l: &Ledger, rng: &mut Rng) {
    let rng = &mut rng.fork(8 + rng.clone().next());
    match rng.below(6) {
        0 => vanish(round, rng),
        1 => told(round, l, rng),
        2 | 3 => {
            let (r, rng) = (round.clone(), rng.fork(1));
            r.loose.fetch_add(1, Relaxed);
            std::thread::spawn(move || {
                short(&r, &r.ledger(PLACES, PLACES), rng);
                r.loose.fetch_sub(1, Relaxed);
            });
        }
        _ => {
            let (r, rng) = (round.clone(), rng.fork(1));
            let t = std::thread::spawn(move || short(&r, &r.ledger(PLACES, PLACES), rng));
            if t.join().is_err() {
                round.is_wrong("a short thread panicked".into());
            }
        }
    }
}

fn short(round: &Round, l: &Arc<Ledger>, mut rng: Rng) {
    let _in = Inside::new(round, l);
    if rng.one_in(3) {
        LATE.with(|late| *late.borrow_mut() = Some(Late(l.clone(), rng.one_in(2))));
    }
    let mut w = Worker::new(l, rng.fork(0));
    w.some(rng.below(60), round);
    w.end();
}

/// A thread that the recorder is told of.
fn told(round: &Arc<Round>, l: &Ledger, rng: &mut Rng) {
    let (r, rng) = (round.clone(), rng.fork(1));
    let mine = round.ledger(PLACES, PLACES);
    work::count_create(l);
    let name = mine.name();
    // By name from its beginning, where it is announced.
    let t = trace::thread::Builder::new().name(name).spawn(move || short(&r, &mine, rng));
    if t.map(|t| t.join().is_err()).unwrap_or(true) {
        round.is_wrong("a told thread was not made, or panicked".into());
    }
}

thread_local! {
    static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
}

/// Emits as its thread ends, and once more behind the recorder's own destructor.
struct Late(Arc<Ledger>, bool);

impl Drop for Late {
    fn drop(&mut self) {
        for what in 0..3 {
            emit_one(&self.0, false, what);
        }
        if self.1 {
            self.0.lives.fetch_add(1, Relaxed);
            set_key(Arc::into_raw(self.0.clone()));
        }
    }
}

/// A key whose destructor runs after the recorder's own.
unsafe extern "C" fn last_words(value: *mut c_void) {
    // SAFETY: made by `into_raw` for this call.
    let l = unsafe { Arc::from_raw(value.cast_const().cast::<Ledger>()) };
    emit_one(&l, false, 0);
}

fn set_key(value: *const Ledger) {
    static KEY: std::sync::OnceLock<libc::pthread_key_t> = std::sync::OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the place is writable, and the destructor a function.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(last_words)) }, 0);
        key
    });
    // SAFETY: libc keeps the value for the destructor, which knows it.
    assert_eq!(unsafe { libc::pthread_setspecific(*key, value.cast()) }, 0);
}

/// What a thread that vanishes is given; it stays its maker's.
struct Vanishes {
    round: Arc<Round>,
    ledger: Arc<Ledger>,
    rng: Rng,
}

/// Ends the thread as no library sees it. Nothing of its own is in its hands then.
extern "C" fn vanishes(arg: *mut c_void) -> *mut c_void {
    {
        // SAFETY: its maker keeps it until the thread was joined.
        let v = unsafe { &*arg.cast::<Vanishes>() };
        let mut rng = v.rng.clone();
        let _in = Inside::new(&v.round, &v.ledger);
        let mut w = Worker::new(&v.ledger, rng.fork(0));
        w.some(rng.below(60), &*v.round);
        w.end();
    }
    // SAFETY: ends this thread alone; it holds nothing.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

fn vanish(round: &Arc<Round>, rng: &mut Rng) {
    let ledger = round.ledger(PLACES, PLACES);
    // It has no end that it could tell.
    ledger.lives.store(0, Relaxed);
    let v = Vanishes { round: round.clone(), ledger, rng: rng.fork(2) };
    let mut id = 0;
    let arg = (&raw const v).cast_mut().cast();
    // SAFETY: the value lives until the thread was joined below.
    let made = unsafe { libc::pthread_create(&mut id, std::ptr::null(), vanishes, arg) };
    if made != 0 {
        return round.is_wrong(format!("pthread_create: {made}"));
    }
    // SAFETY: our thread, joined once.
    assert_eq!(unsafe { libc::pthread_join(id, std::ptr::null_mut()) }, 0);
}
