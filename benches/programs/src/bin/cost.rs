//! Small work of known shape, whose cost under a recorder `ci/cost` measures: a lock handed back
//! and forth, locks that nobody else wants, a start.
//!
//!     cost handover std|pthread COUNT DEPTH CPU    two threads on one CPU
//!     cost alone std|pthread COUNT                 lock and unlock, uncontended
//!     cost calls read|write COUNT                  system calls that never wait
//!     cost streams fread|getc|fgets|fwrite|putc|fputs|fprintf COUNT    what a buffer serves
//!     cost start                                   begins itself anew
//!     cost main SINCE                              is begun; 0: says its own clock
//!
//! It prints `wall_ns cpu_ns` of the work, by its own clocks; of a start: the time from just before
//! exec until `main`.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::mpsc;

fn clock(which: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a writable place.
    unsafe { libc::clock_gettime(which, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn now() -> (u64, u64) {
    (clock(libc::CLOCK_MONOTONIC), clock(libc::CLOCK_PROCESS_CPUTIME_ID))
}

fn say(from: (u64, u64)) {
    let to = now();
    println!("{} {}", to.0 - from.0, to.1 - from.1);
}

fn pin(cpu: usize) {
    // SAFETY: numbers only, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of this program's own.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: a set and its size.
    let r = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(r, 0, "there is no CPU {cpu}");
}

/// Runs `work` so many frames deep.
#[inline(never)]
fn deep(frames: usize, work: &mut dyn FnMut()) {
    if frames == 0 {
        work();
    } else {
        deep(black_box(frames - 1), work);
    }
    black_box(());
}

/// Whose turn it is, behind a lock.
trait Turn: Send + Sync + 'static {
    /// Waits until it is `mine`, and gives it to the other.
    fn next(&self, mine: bool);
}

#[derive(Default)]
struct Std(Mutex<bool>, Condvar);

impl Turn for Std {
    #[inline(never)]
    fn next(&self, mine: bool) {
        let mut turn = self.0.lock().unwrap();
        while *turn != mine {
            turn = self.1.wait(turn).unwrap();
        }
        *turn = !mine;
        self.1.notify_one();
    }
}

struct Pthread {
    lock: UnsafeCell<libc::pthread_mutex_t>,
    changed: UnsafeCell<libc::pthread_cond_t>,
    turn: UnsafeCell<bool>,
}

// SAFETY: what is inside is touched under `lock` only.
unsafe impl Send for Pthread {}
// SAFETY: as above.
unsafe impl Sync for Pthread {}

impl Default for Pthread {
    fn default() -> Pthread {
        Pthread {
            lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
            changed: UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER),
            turn: UnsafeCell::new(false),
        }
    }
}

impl Turn for Pthread {
    #[inline(never)]
    fn next(&self, mine: bool) {
        // SAFETY: the lock guards the turn; both live as long as `self`, which does not move.
        unsafe {
            libc::pthread_mutex_lock(self.lock.get());
            while *self.turn.get() != mine {
                libc::pthread_cond_wait(self.changed.get(), self.lock.get());
            }
            *self.turn.get() = !mine;
            libc::pthread_cond_signal(self.changed.get());
            libc::pthread_mutex_unlock(self.lock.get());
        }
    }
}

fn handover<T: Turn + Default>(count: u64, depth: usize) {
    let turn = Arc::new(T::default());
    let other = turn.clone();
    let from = now();
    let thread = std::thread::spawn(move || {
        deep(depth, &mut || (0..count / 2).for_each(|_| other.next(true)));
    });
    deep(depth, &mut || (0..count / 2).for_each(|_| turn.next(false)));
    thread.join().unwrap();
    say(from);
}

fn alone(kind: &str, count: u64) {
    // With a second thread, or libc spares itself the atomic instructions.
    let (done, until) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || until.recv());
    let from = now();
    match kind {
        "std" => {
            let lock = Mutex::new(0u64);
            (0..count).for_each(|_| *black_box(&lock).lock().unwrap() += 1);
        }
        _ => {
            let lock = UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER);
            for _ in 0..count {
                let lock = black_box(lock.get());
                // SAFETY: a mutex that lives through the loop.
                unsafe {
                    libc::pthread_mutex_lock(lock);
                    libc::pthread_mutex_unlock(lock);
                }
            }
        }
    }
    say(from);
    drop(done);
    let _ = thread.join();
}

fn calls(kind: &str, count: u64) {
    let mut byte = [0u8];
    let from = match kind {
        "read" => {
            let mut zero = std::fs::File::open("/dev/zero").unwrap();
            let from = now();
            (0..count).for_each(|_| zero.read_exact(&mut byte).unwrap());
            from
        }
        _ => {
            let mut null = std::fs::File::options().write(true).open("/dev/null").unwrap();
            let from = now();
            (0..count).for_each(|_| null.write_all(&byte).unwrap());
            from
        }
    };
    say(from);
}

/// A stream of a file that needs no disk.
fn stream(path: &CStr, mode: &CStr) -> *mut libc::FILE {
    // SAFETY: texts that end in a zero.
    let stream = unsafe { libc::fopen(path.as_ptr(), mode.as_ptr()) };
    assert!(!stream.is_null());
    stream
}

/// Calls on streams, of which the buffer serves all but each 4,096th byte.
fn streams(kind: &str, count: u64) {
    const LINE: &CStr = c"a line of some fifty characters, more or less so\n";
    let mut text = [0 as libc::c_char; 64];
    let to = text.as_mut_ptr();
    let zero = stream(c"/dev/zero", c"r");
    let null = stream(c"/dev/null", c"w");
    let from = now();
    for n in 0..count {
        // SAFETY: open streams, a buffer that is long enough, texts that end in a zero.
        unsafe {
            match kind {
                "fread" => assert!(libc::fread(to.cast(), 1, 1, zero) == 1),
                "getc" => assert!(libc::fgetc(zero) == 0),
                "fgets" => assert!(!libc::fgets(to, 50, zero).is_null()),
                "fwrite" => assert!(libc::fwrite(LINE.as_ptr().cast(), 1, 1, null) == 1),
                "putc" => assert!(libc::fputc(65, null) == 65),
                "fputs" => assert!(libc::fputs(LINE.as_ptr(), null) >= 0),
                "fprintf" => assert!(libc::fprintf(null, c"%lu line\n".as_ptr(), n) > 0),
                _ => panic!("fread|getc|fgets|fwrite|putc|fputs|fprintf"),
            }
        }
    }
    say(from);
}

fn main() {
    let at = clock(libc::CLOCK_MONOTONIC);
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    let kind = words.get(2).map_or("", |w| w);
    match words.get(1).map_or("", |w| w) {
        "handover" => {
            pin(number(5) as usize);
            match kind {
                "std" => handover::<Std>(number(3), number(4) as usize),
                _ => handover::<Pthread>(number(3), number(4) as usize),
            }
        }
        "alone" => alone(kind, number(3)),
        "calls" => calls(kind, number(3)),
        "streams" => streams(kind, number(3)),
        "start" => {
            let own = std::env::current_exe().unwrap();
            let mut anew = Command::new(own);
            anew.arg("main").arg(clock(libc::CLOCK_MONOTONIC).to_string());
            panic!("{}", anew.exec());
        }
        "main" => println!("{} 0", at - number(2)),
        _ => panic!("cost handover|alone|calls|streams|start|main"),
    }
}
