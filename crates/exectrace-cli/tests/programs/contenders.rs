//! Two, three and eight threads wait for one thing, in turn for each of the standard library's; one
//! after the other each is let go by the one before, or all by one. All of them are asleep before
//! the first is let go, so that who releases whom is no accident; it is printed: what they waited
//! for, the one that waited, and whose calls came while it did, of which the last let it go.

use std::fs;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::Once;
use std::sync::RwLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn tid() -> u64 {
    let link = fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Until a thread that has said that it is about to wait sleeps, as the kernel says.
fn await_sleep(tid: u64) {
    let mut seen = 0;
    while seen < 5 {
        let stat = fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        seen = if state.starts_with('S') { seen + 1 } else { 0 };
        thread::sleep(Duration::from_micros(300));
    }
}

/// Who waits, and in which order they went on. Nothing here waits.
struct Turns {
    about: Vec<AtomicUsize>,
    order: Vec<AtomicUsize>,
    inside: AtomicUsize,
}

impl Turns {
    fn of(threads: usize) -> Arc<Turns> {
        let empty = || (0..threads).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Turns { about: empty(), order: empty(), inside: AtomicUsize::new(0) })
    }

    fn about_to_wait(&self, at: usize) {
        self.about[at].store(tid() as usize, SeqCst);
    }

    fn goes_on(&self) {
        let at = self.inside.fetch_add(1, SeqCst);
        self.order[at].store(tid() as usize, SeqCst);
    }

    /// One comes after the other, so that they are not in each other's way.
    fn sleeps(&self, at: usize) {
        while self.about[at].load(SeqCst) == 0 {
            thread::sleep(Duration::from_micros(300));
        }
        await_sleep(self.about[at].load(SeqCst) as u64);
    }

    fn all_are_in(&self) {
        while self.inside.load(SeqCst) < self.order.len() {
            thread::sleep(Duration::from_micros(300));
        }
    }
}

/// Who let a thread go: the one before it, with all before that; only that one; one for all.
enum By {
    Each,
    Last,
    One,
}

/// Runs `waits` in so many threads, and `release` when all of them sleep.
fn round(
    what: &str,
    by: By,
    threads: usize,
    waits: impl Fn(usize, &Turns) + Send + Sync + 'static,
    release: impl FnOnce(&[thread::Thread], &Turns),
) {
    let (turns, waits) = (Turns::of(threads), Arc::new(waits));
    let all: Vec<_> = (0..threads)
        .map(|at| {
            let (own, waits) = (turns.clone(), waits.clone());
            let thread = thread::spawn(move || waits(at, &own));
            turns.sleeps(at);
            thread
        })
        .collect();
    release(&all.iter().map(|t| t.thread().clone()).collect::<Vec<_>>(), &turns);
    all.into_iter().for_each(|t| t.join().unwrap());
    let order: Vec<u64> = turns.order.iter().map(|t| t.load(SeqCst) as u64).collect();
    for (at, of) in order.iter().enumerate() {
        let mut by = match by {
            By::Each => [&[tid()], &order[..at]].concat(),
            By::Last if at > 0 => vec![order[at - 1]],
            By::Last | By::One => vec![tid()],
        };
        let by: Vec<String> = by.drain(..).map(|tid| tid.to_string()).collect();
        println!("{what}:{threads}:{of}: {}", by.join(" "));
    }
}

fn locks(threads: usize) {
    let mutex = Arc::new(Mutex::new(()));
    let held = mutex.lock().unwrap();
    let m = mutex.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        let _held = m.lock().unwrap();
        turns.goes_on();
    };
    round("mutex", By::Each, threads, waits, |_, _| drop(held));

    let lock = Arc::new(RwLock::new(()));
    let held = lock.write().unwrap();
    let l = lock.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        let _held = l.write().unwrap();
        turns.goes_on();
    };
    round("rwlock", By::Each, threads, waits, |_, _| drop(held));

    let held = lock.write().unwrap();
    let l = lock.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        let _held = l.read().unwrap();
        turns.goes_on();
        turns.all_are_in();
    };
    round("rwlock", By::One, threads, waits, |_, _| drop(held));
}

fn signals(threads: usize) {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let p = pair.clone();
    let one = |p: &(Mutex<i32>, Condvar)| {
        *p.0.lock().unwrap() = 1;
        p.1.notify_one();
    };
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        let mut turn = p.0.lock().unwrap();
        while *turn == 0 {
            turn = p.1.wait(turn).unwrap();
        }
        *turn = 0;
        drop(turn);
        turns.goes_on();
        one(&p);
    };
    round("condvar", By::Each, threads, waits, |_, _| one(&pair));

    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let p = pair.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        let mut open = p.0.lock().unwrap();
        while !*open {
            open = p.1.wait(open).unwrap();
        }
        turns.goes_on();
    };
    let release = |_: &[thread::Thread], _: &Turns| {
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
    };
    round("condvar", By::One, threads, waits, release);

    let barrier = Arc::new(Barrier::new(threads + 1));
    let b = barrier.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        b.wait();
        turns.goes_on();
    };
    round("barrier", By::One, threads, waits, |_, _| {
        barrier.wait();
    });
}

fn others(threads: usize) {
    let once = Arc::new(Once::new());
    let o = once.clone();
    // The one that initialises is begun before the others, and is told when they sleep.
    let begun = Arc::new(AtomicUsize::new(0));
    let (b, o2) = (begun.clone(), once.clone());
    let turns = Turns::of(threads);
    let initialises = thread::spawn(move || {
        o2.call_once(|| {
            b.store(tid() as usize, SeqCst);
            while b.load(SeqCst) != 0 {
                thread::sleep(Duration::from_micros(300));
            }
        });
    });
    while begun.load(SeqCst) == 0 {
        thread::sleep(Duration::from_micros(300));
    }
    let by = begun.load(SeqCst);
    let waiters: Vec<_> = (0..threads)
        .map(|at| {
            let (own, o) = (turns.clone(), o.clone());
            let thread = thread::spawn(move || {
                own.about_to_wait(at);
                o.call_once(|| unreachable!("it was initialised"));
            });
            turns.sleeps(at);
            thread
        })
        .collect();
    begun.store(0, SeqCst);
    initialises.join().unwrap();
    waiters.into_iter().for_each(|t| t.join().unwrap());
    for about in &turns.about {
        println!("once:{threads}:{}: {by}", about.load(SeqCst));
    }

    let next: Arc<Mutex<Vec<thread::Thread>>> = Arc::default();
    let n = next.clone();
    let waits = move |at: usize, turns: &Turns| {
        turns.about_to_wait(at);
        thread::park();
        turns.goes_on();
        let next = n.lock().unwrap().pop();
        if let Some(next) = next {
            next.unpark();
        }
    };
    let release = |threads: &[thread::Thread], _: &Turns| {
        next.lock().unwrap().extend_from_slice(&threads[1..]);
        threads[0].unpark();
    };
    round("park", By::Last, threads, waits, release);

    let (to, from): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel::<()>()).unzip();
    let (to, from) = (Arc::new(to), Mutex::new(from.into_iter().map(Some).collect::<Vec<_>>()));
    let t = to.clone();
    let waits = move |at: usize, turns: &Turns| {
        let from = from.lock().unwrap()[at].take().unwrap();
        turns.about_to_wait(at);
        from.recv().unwrap();
        turns.goes_on();
        if let Some(next) = t.get(at + 1) {
            next.send(()).unwrap();
        }
    };
    round("channel", By::Last, threads, waits, |_, _| to[0].send(()).unwrap());
}

fn main() {
    for threads in [2, 3, 8] {
        locks(threads);
        signals(threads);
        others(threads);
    }
}
