//! Calls of the C library's buffered input and output. They enter the kernel from inside libc,
//! where no hook is, but only where a stream's buffer does not serve them: the fields of the stream
//! say so beforehand, and what the buffer serves goes straight to libc.
//!
//! 1. The fields are read without the stream's lock, so they are a hint: what is recorded depends
//!    on them, and what the call does never.
//! 2. A stream without a descriptor (of memory, of the program's own functions) is none of ours:
//!    what the program's functions do is seen for itself.
//! 3. A write of which everything is still in the buffer was none.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_long;
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::Ordering::Relaxed;

use libc::FILE;
use libc::fpos_t;
use libc::off_t;
use libc::size_t;
use libc::ssize_t;
use trace::block;
use trace::clock::Clock;
use trace::encode::op::Op;

use crate::c::Arguments;
use crate::descriptors;
use crate::raw;
use crate::real;
use crate::settings;
use crate::settings::Classes;
use crate::waiting::Waiting;

/// The beginning of glibc's `struct _IO_FILE`, which `bits/types/struct_FILE.h` shows to programs:
/// their own `getc_unlocked` has it compiled in.
#[repr(C)]
struct Head {
    flags: c_int,
    read_at: usize,
    read_end: usize,
    read_base: usize,
    write_base: usize,
    write_at: usize,
    write_end: usize,
    buffer: usize,
    buffer_end: usize,
    saved: [usize; 3],
    markers: usize,
    next: usize,
    descriptor: c_int,
}

const _: () = {
    assert!(offset_of!(Head, read_at) == 8 && offset_of!(Head, write_at) == 40);
    assert!(offset_of!(Head, buffer_end) == 64 && offset_of!(Head, descriptor) == 112);
};

/// The last call on it failed, or one before.
const FAILED: c_int = 0x20;
/// A line is written when it ends.
const BY_LINES: c_int = 0x200;
/// It is being written to.
const WRITES: c_int = 0x800;
/// It has a descriptor.
const HAS_FILE: c_int = 0x2000;

/// A pointer of the stream.
#[inline(always)]
fn word(stream: *mut FILE, at: usize) -> usize {
    let at = stream.cast::<u8>().wrapping_add(at).cast::<usize>();
    // SAFETY: the caller gives libc a stream that is open, so these bytes of it are there, and
    // aligned. Another thread may be writing them: any value does (invariant 1).
    unsafe { at.read_volatile() }
}

/// A number of the stream.
#[inline(always)]
fn number(stream: *mut FILE, at: usize) -> c_int {
    let at = stream.cast::<u8>().wrapping_add(at).cast::<c_int>();
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

macro_rules! field {
    ($stream:expr, flags) => {
        number($stream, offset_of!(Head, flags))
    };
    ($stream:expr, descriptor) => {
        number($stream, offset_of!(Head, descriptor))
    };
    ($stream:expr, $name:ident) => {
        word($stream, offset_of!(Head, $name))
    };
}

/// Bytes in the buffer that were not read yet; negative: none.
#[inline(always)]
fn readable(stream: *mut FILE) -> isize {
    let (at, end) = (field!(stream, read_at), field!(stream, read_end));
    end.wrapping_sub(at) as isize
}

/// Bytes that have room before the buffer is written out. None where each write or each line is.
#[inline(always)]
fn room(stream: *mut FILE) -> isize {
    let (at, end) = (field!(stream, write_at), field!(stream, write_end));
    end.wrapping_sub(at) as isize
}

/// Bytes in the buffer that were not written out yet.
#[inline(always)]
fn held(stream: *mut FILE) -> usize {
    let (base, at) = (field!(stream, write_base), field!(stream, write_at));
    at.wrapping_sub(base)
}

/// Its descriptor, where calls on it are recorded.
fn recorded(stream: *mut FILE) -> Option<u64> {
    if !settings::wants(Classes::IO) || stream.is_null() {
        return None;
    }
    let (flags, fd) = (field!(stream, flags), field!(stream, descriptor));
    (flags & HAS_FILE != 0 && fd >= 0).then_some(fd as u64)
}

/// The error of a call on it that has failed. None is also the end of a file.
fn error(stream: *mut FILE) -> i32 {
    let flags = field!(stream, flags);
    if flags & FAILED != 0 { raw::errno() } else { 0 }
}

// SAFETY: variables of libc's, of this type.
unsafe extern "C" {
    static mut stdin: *mut FILE;
    static mut stdout: *mut FILE;
}

/// What the program reads from.
fn standard_input() -> *mut FILE {
    // SAFETY: a word of libc's, which programs may change, as they may read it.
    unsafe { stdin }
}

/// What the program writes to.
fn standard_output() -> *mut FILE {
    // SAFETY: as above.
    unsafe { stdout }
}

/// How a wait ends: with so many bytes, or with an error.
type Outcome = Result<u64, i32>;

/// Writes down a wait, where it slept or `always`.
fn over(wait: Waiting, fd: u64, always: bool, outcome: impl FnOnce() -> Outcome) {
    if !wait.is_kept(always) {
        return wait.forget();
    }
    descriptors::describe(fd);
    match outcome() {
        Ok(n) => wait.end(n, 0),
        Err(error) => wait.end(0, error),
    }
}

/// A read that the buffer may not serve. `bytes`: what the call has given the program.
#[cold]
#[inline(never)]
fn reads<R: Copy>(stream: *mut FILE, call: impl FnOnce() -> R, bytes: impl FnOnce(R) -> u64) -> R {
    let Some(fd) = recorded(stream) else { return call() };
    let wait = Waiting::begin(Classes::IO, Op::Read, fd);
    let r = call();
    over(wait, fd, false, || match bytes(r) {
        0 => Err(error(stream)),
        n => Ok(n),
    });
    r
}

/// A write that the buffer may not hold. `bytes`: what the stream has taken, none if it failed.
#[cold]
#[inline(never)]
fn writes<R: Copy>(
    stream: *mut FILE,
    call: impl FnOnce() -> R,
    bytes: impl FnOnce(R) -> Option<u64>,
) -> R {
    let Some(fd) = recorded(stream) else { return call() };
    let before = held(stream);
    let wait = Waiting::begin(Classes::IO, Op::Write, fd);
    let r = call();
    let bytes = bytes(r);
    if bytes.is_some_and(|n| held(stream) == before.wrapping_add(n as usize)) {
        wait.forget();
        return r;
    }
    let released = bytes.is_some() && wait.is_on() && descriptors::releases(fd);
    over(wait, fd, released, || bytes.ok_or_else(raw::errno));
    r
}

/// With less room than this, `printf` and its like are expected to need the kernel.
const NARROW: isize = 128;

/// The longest that one of them has written, or [`NARROW`]: with so much room none is expected to.
static LONGEST: AtomicIsize = AtomicIsize::new(NARROW);

/// Whether what is left to be said afterwards can be: the thread is known, and with it the clock.
fn says_later() -> bool {
    block::is_known()
}

/// A `printf`: how much it writes is known only afterwards. With some room it is said afterwards
/// too, where the buffer was written out. Where nobody expected that, since the program has never
/// printed so much at a time, it is said without its length.
#[inline(always)]
fn prints(stream: *mut FILE, call: impl FnOnce() -> c_int) -> c_int {
    let room = room(stream);
    if room < NARROW {
        return writes(stream, call, printed);
    }
    if room < LONGEST.load(Relaxed) {
        return prints_long(stream, call);
    }
    let before = held(stream);
    let r = call();
    if r as isize > LONGEST.load(Relaxed) {
        LONGEST.fetch_max(r as isize, Relaxed);
        if held(stream) != before.wrapping_add(r as usize) {
            return prints_long(stream, || r);
        }
    }
    r
}

/// What a `printf` has written.
fn printed(r: c_int) -> Option<u64> {
    u64::try_from(r).ok()
}

/// A `printf` that is said afterwards, with its length.
#[cold]
#[inline(never)]
fn prints_long(stream: *mut FILE, call: impl FnOnce() -> c_int) -> c_int {
    let Some(fd) = recorded(stream) else { return call() };
    if !says_later() {
        return writes(stream, call, printed);
    }
    let (before, since) = (held(stream), now());
    let r = call();
    if r >= 0 && held(stream) == before.wrapping_add(r as usize) {
        return r;
    }
    let wait = Waiting::begin(Classes::IO, Op::Write, fd).since(since);
    let released = r >= 0 && wait.is_on() && descriptors::releases(fd);
    over(wait, fd, released, || printed(r).ok_or_else(raw::errno));
    r
}

/// A read of which nobody knows beforehand how far it goes, with something in the buffer: said
/// afterwards, where the buffer was filled anew.
#[inline(never)]
fn reads_perhaps<R: Copy>(
    stream: *mut FILE,
    call: impl FnOnce() -> R,
    bytes: impl FnOnce(R) -> u64,
) -> R {
    let Some(fd) = recorded(stream) else { return call() };
    if !says_later() {
        return reads(stream, call, bytes);
    }
    let (at, end) = (field!(stream, read_at), field!(stream, read_end));
    let since = now();
    let r = call();
    if field!(stream, read_end) == end && field!(stream, read_at) >= at {
        return r;
    }
    let wait = Waiting::begin(Classes::IO, Op::Read, fd).since(since);
    over(wait, fd, false, || match bytes(r) {
        0 => Err(error(stream)),
        n => Ok(n),
    });
    r
}

fn now() -> u64 {
    Clock::get().now().0
}

// ---- reading

macro_rules! blocks_read { ($( $name:ident($($more:ident)?); )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[inline(always)]
    pub unsafe fn $name(
        to: *mut c_void,
        $($more: size_t,)?
        size: size_t,
        n: size_t,
        stream: *mut FILE,
    ) -> size_t {
        let all = size.wrapping_mul(n);
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(to, $($more,)? size, n, stream) };
        if all == 0 || readable(stream) >= all as isize {
            return call();
        }
        reads(stream, call, move |r| r.wrapping_mul(size) as u64)
    }
)* } }

blocks_read! {
    fread();
    fread_unlocked();
    __fread_chk(space);
    __fread_unlocked_chk(space);
}

macro_rules! bytes_read { ($( $name:ident($($stream:ident)?) $from:expr; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[allow(non_snake_case)]
    #[inline(always)]
    pub unsafe fn $name($($stream: *mut FILE)?) -> c_int {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name($($stream)?) };
        let from: *mut FILE = $from;
        if readable(from) > 0 {
            return call();
        }
        reads(from, call, |r| u64::from(r >= 0))
    }
)* } }

bytes_read! {
    fgetc(stream) stream;
    getc(stream) stream;
    _IO_getc(stream) stream;
    getchar() standard_input();
    fgetc_unlocked(stream) stream;
    getc_unlocked(stream) stream;
    getchar_unlocked() standard_input();
    __uflow(stream) stream;
}

/// A line of at most so many bytes; `alone`: no other thread touches the stream meanwhile.
#[inline(always)]
fn line<R: Copy>(
    (stream, most, end, alone): (*mut FILE, usize, c_int, bool),
    call: impl FnOnce() -> R,
    bytes: impl FnOnce(R) -> u64,
) -> R {
    let have = readable(stream);
    if have <= 0 && most != 0 {
        return reads(stream, call, bytes);
    }
    if most as isize <= have && most <= isize::MAX as usize {
        return call();
    }
    if !alone && !real::is_single_threaded() {
        return reads_perhaps(stream, call, bytes);
    }
    let from = std::ptr::with_exposed_provenance::<c_void>(field!(stream, read_at));
    // SAFETY: so many bytes stand in the buffer, which nobody else changes.
    let found = unsafe { libc::memchr(from, end, have as usize) };
    if found.is_null() { reads(stream, call, bytes) } else { call() }
}

/// The length of a text that was read.
fn length(text: *mut c_char) -> u64 {
    // SAFETY: null, or a text that libc has ended with a zero.
    if text.is_null() { 0 } else { unsafe { libc::strlen(text) as u64 } }
}

macro_rules! lines_read { ($( $name:ident($($more:ident)?) $alone:literal; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[inline(always)]
    pub unsafe fn $name(
        to: *mut c_char,
        $($more: size_t,)?
        n: c_int,
        stream: *mut FILE,
    ) -> *mut c_char {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(to, $($more,)? n, stream) };
        let most = n.saturating_sub(1).max(0) as usize;
        line((stream, most, c_int::from(b'\n'), $alone), call, length)
    }
)* } }

lines_read! {
    fgets() false;
    fgets_unlocked() true;
    __fgets_chk(space) false;
    __fgets_unlocked_chk(space) true;
}

/// # Safety
/// - As `getline`.
pub unsafe fn getline(to: *mut *mut c_char, n: *mut size_t, stream: *mut FILE) -> ssize_t {
    // SAFETY: the caller's promise.
    let call = move || unsafe { real::getline(to, n, stream) };
    line((stream, usize::MAX, c_int::from(b'\n'), false), call, |r| r.max(0) as u64)
}

macro_rules! pieces_read { ($( $name:ident; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe fn $name(
        to: *mut *mut c_char,
        n: *mut size_t,
        end: c_int,
        stream: *mut FILE,
    ) -> ssize_t {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(to, n, end, stream) };
        line((stream, usize::MAX, end, false), call, |r| r.max(0) as u64)
    }
)* } }

pieces_read! {
    getdelim;
    __getdelim;
}

/// A `scanf`: it gives no number of bytes.
#[inline(always)]
fn scans(stream: *mut FILE, call: impl FnOnce() -> c_int) -> c_int {
    let bytes = |r: c_int| u64::from(r >= 0);
    if readable(stream) <= 0 {
        return reads(stream, call, bytes);
    }
    reads_perhaps(stream, call, bytes)
}

macro_rules! scanned { ($( $name:ident($($stream:ident)?) $from:expr; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe extern "C-unwind" fn $name(
        $($stream: *mut FILE,)?
        format: *const c_char,
        arguments: Arguments,
    ) -> c_int {
        // SAFETY: the caller's promise.
        scans($from, || unsafe { real::$name($($stream,)? format, arguments) })
    }
)* } }

scanned! {
    vscanf() standard_input();
    vfscanf(stream) stream;
    __isoc99_vscanf() standard_input();
    __isoc99_vfscanf(stream) stream;
    __isoc23_vscanf() standard_input();
    __isoc23_vfscanf(stream) stream;
}

// ---- writing

macro_rules! blocks_written { ($( $name:ident; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[inline(always)]
    pub unsafe fn $name(from: *const c_void, size: size_t, n: size_t, stream: *mut FILE) -> size_t {
        let all = size.wrapping_mul(n);
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(from, size, n, stream) };
        if all == 0 || room(stream) >= all as isize {
            return call();
        }
        writes(stream, call, move |r| (r == n).then_some(all as u64))
    }
)* } }

blocks_written! {
    fwrite;
    fwrite_unlocked;
}

macro_rules! bytes_written { ($( $name:ident($($stream:ident)?) $to:expr; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[allow(non_snake_case)]
    #[inline(always)]
    pub unsafe fn $name(byte: c_int, $($stream: *mut FILE)?) -> c_int {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(byte, $($stream)?) };
        let to: *mut FILE = $to;
        if room(to) > 0 || stays(to, byte) {
            return call();
        }
        writes(to, call, |r| (r >= 0).then_some(1))
    }
)* } }

bytes_written! {
    fputc(stream) stream;
    putc(stream) stream;
    _IO_putc(stream) stream;
    putchar() standard_output();
    fputc_unlocked(stream) stream;
    putc_unlocked(stream) stream;
    putchar_unlocked() standard_output();
}

/// Whether a byte stays in the buffer of a stream that is written line by line.
fn stays(stream: *mut FILE, byte: c_int) -> bool {
    let flags = field!(stream, flags);
    let (at, end) = (field!(stream, write_at), field!(stream, buffer_end));
    flags & (BY_LINES | WRITES) == BY_LINES | WRITES && byte as u8 != b'\n' && at < end
}

/// What programs' own `putc_unlocked` calls for a byte that finds no room.
///
/// # Safety
/// - As glibc's function of this name.
pub unsafe fn __overflow(stream: *mut FILE, byte: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let call = move || unsafe { real::__overflow(stream, byte) };
    if stays(stream, byte) {
        return call();
    }
    writes(stream, call, |r| (r >= 0).then_some(1))
}

macro_rules! texts_written { ($( $name:ident($($stream:ident)?) $to:expr, $more:literal; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    #[inline(always)]
    pub unsafe fn $name(text: *const c_char, $($stream: *mut FILE)?) -> c_int {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(text, $($stream)?) };
        let to: *mut FILE = $to;
        // SAFETY: a text that ends in a zero, by the caller's promise.
        let n = unsafe { libc::strlen(text) } + $more;
        if n == 0 || room(to) >= n as isize {
            return call();
        }
        writes(to, call, move |r| (r >= 0).then_some(n as u64))
    }
)* } }

texts_written! {
    fputs(stream) stream, 0;
    fputs_unlocked(stream) stream, 0;
    puts() standard_output(), 1;
}

macro_rules! printed { ($( $name:ident($($stream:ident)? $(; $flag:ident)?) $to:expr; )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe extern "C-unwind" fn $name(
        $($stream: *mut FILE,)?
        $($flag: c_int,)?
        format: *const c_char,
        arguments: Arguments,
    ) -> c_int {
        // SAFETY: the caller's promise.
        prints($to, || unsafe { real::$name($($stream,)? $($flag,)? format, arguments) })
    }
)* } }

printed! {
    vprintf() standard_output();
    vfprintf(stream) stream;
    __vprintf_chk(; flag) standard_output();
    __vfprintf_chk(stream; flag) stream;
}

macro_rules! printed_to_descriptors { ($( $name:ident($($flag:ident)?); )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe extern "C-unwind" fn $name(
        fd: c_int,
        $($flag: c_int,)?
        format: *const c_char,
        arguments: Arguments,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let call = move || unsafe { real::$name(fd, $($flag,)? format, arguments) };
        crate::calls::writes(Classes::IO, Op::Write, crate::calls::fd(fd), call)
    }
)* } }

printed_to_descriptors! {
    vdprintf();
    __vdprintf_chk(flag);
}

/// A call that writes out what a stream holds, if it holds something.
#[inline(always)]
fn flushes(stream: *mut FILE, call: impl FnOnce() -> c_int) -> c_int {
    if stream.is_null() {
        return flushes_all(call);
    }
    match held(stream) {
        0 => call(),
        n => writes(stream, call, |r| (r == 0).then_some(n as u64)),
    }
}

/// A call that writes out what all streams hold: put down to what most programs write to.
#[cold]
#[inline(never)]
fn flushes_all(call: impl FnOnce() -> c_int) -> c_int {
    let stream = standard_output();
    let Some(fd) = recorded(stream) else { return call() };
    let n = held(stream);
    if n != 0 {
        return writes(stream, call, |r| (r == 0).then_some(n as u64));
    }
    let wait = Waiting::begin(Classes::IO, Op::Write, fd);
    let r = call();
    over(wait, fd, false, || if r == 0 { Ok(0) } else { Err(raw::errno()) });
    r
}

/// # Safety
/// - As `fflush`.
pub unsafe fn fflush(stream: *mut FILE) -> c_int {
    // SAFETY: the caller's promise.
    flushes(stream, || unsafe { real::fflush(stream) })
}

/// # Safety
/// - As `fflush_unlocked`.
pub unsafe fn fflush_unlocked(stream: *mut FILE) -> c_int {
    // SAFETY: the caller's promise.
    flushes(stream, || unsafe { real::fflush_unlocked(stream) })
}

/// A call after which there is no stream any more, nor its descriptor.
fn ends(stream: *mut FILE, op: Op, call: impl FnOnce() -> c_int) -> c_int {
    let n = held(stream);
    let fd = field!(stream, descriptor);
    let waits = match op {
        Op::WaitProcess => settings::wants(Classes::PROCESS).then_some((Classes::PROCESS, 0)),
        _ if n == 0 => None,
        _ => recorded(stream).map(|fd| (Classes::IO, fd)),
    };
    let Some((class, object)) = waits else {
        descriptors::forget(fd);
        return call();
    };
    let releases = op == Op::Write && descriptors::releases(object);
    if op == Op::Write {
        descriptors::describe(object);
    }
    descriptors::forget(fd);
    let wait = Waiting::begin(class, op, object);
    let r = call();
    if !wait.is_kept(releases && r == 0) {
        wait.forget();
    } else if r < 0 {
        wait.end(0, raw::errno());
    } else {
        wait.end(if op == Op::Write { n as u64 } else { 0 }, 0);
    }
    r
}

/// # Safety
/// - As `fclose`.
pub unsafe fn fclose(stream: *mut FILE) -> c_int {
    // SAFETY: the caller's promise.
    ends(stream, Op::Write, || unsafe { real::fclose(stream) })
}

/// # Safety
/// - As `pclose`.
pub unsafe fn pclose(stream: *mut FILE) -> c_int {
    // SAFETY: the caller's promise.
    ends(stream, Op::WaitProcess, || unsafe { real::pclose(stream) })
}

/// A move within a stream: what it holds is written out, or the block is read that it goes to.
#[inline(always)]
fn moves<R: Copy>(
    stream: *mut FILE,
    call: impl FnOnce() -> R,
    failed: impl FnOnce(R) -> bool,
) -> R {
    let n = held(stream);
    if n != 0 {
        return writes(stream, call, |r| (!failed(r)).then_some(n as u64));
    }
    let Some(fd) = recorded(stream) else { return call() };
    let wait = Waiting::begin(Classes::IO, Op::Read, fd);
    let r = call();
    let filled = field!(stream, read_end).saturating_sub(field!(stream, read_base));
    if filled == 0 {
        wait.forget();
        return r;
    }
    over(wait, fd, false, || if failed(r) { Err(raw::errno()) } else { Ok(filled as u64) });
    r
}

macro_rules! moved { ($( $name:ident($($arg:ident: $type:ty),*); )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe fn $name(stream: *mut FILE, $($arg: $type),*) -> c_int {
        // SAFETY: the caller's promise.
        moves(stream, || unsafe { real::$name(stream, $($arg),*) }, |r| r < 0)
    }
)* } }

moved! {
    fseek(to: c_long, from: c_int);
    fseeko(to: off_t, from: c_int);
    fseeko64(to: off_t, from: c_int);
    fsetpos(to: *const fpos_t);
    fsetpos64(to: *const fpos_t);
}

/// # Safety
/// - As `rewind`.
pub unsafe fn rewind(stream: *mut FILE) {
    // SAFETY: the caller's promise.
    moves(stream, || unsafe { real::rewind(stream) }, |()| false);
}

// ---- opening

/// The number of a new stream's descriptor means something else from here on.
pub(crate) fn is_new(stream: *mut FILE) -> u64 {
    let fd = field!(stream, descriptor);
    descriptors::forget(fd);
    fd as u64
}

/// An open: what it waited for is the new stream's descriptor.
fn opens(call: impl FnOnce() -> *mut FILE) -> *mut FILE {
    let wait = Waiting::begin(Classes::IO, Op::Open, 0);
    let stream = call();
    if stream.is_null() {
        wait.end_if_slept(0, raw::errno());
        return stream;
    }
    let fd = is_new(stream);
    if !wait.is_kept(false) {
        wait.forget();
    } else {
        descriptors::describe(fd);
        wait.of(fd).end(fd, 0);
    }
    stream
}

macro_rules! opened { ($( $name:ident($($arg:ident: $type:ty),*); )*) => { $(
    /// # Safety
    /// - As the function of this name.
    pub unsafe fn $name($($arg: $type),*) -> *mut FILE {
        // SAFETY: the caller's promise.
        opens(|| unsafe { real::$name($($arg),*) })
    }
)* } }

opened! {
    fopen(path: *const c_char, mode: *const c_char);
    fopen64(path: *const c_char, mode: *const c_char);
    freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE);
    freopen64(path: *const c_char, mode: *const c_char, stream: *mut FILE);
    tmpfile();
    tmpfile64();
}
