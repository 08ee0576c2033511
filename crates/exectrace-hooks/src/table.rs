//! The tables of all functions of libc that are stood in for, with their signatures: those with
//! bodies of their own, and those that are all recorded alike.
//!
//! From them come the symbols that [`hooks`](crate::hooks) defines, and the functions of libc
//! behind them in [`real`](crate::real). The bodies have the same names in
//! [`bodies`](crate::bodies).

/// Hands the table of functions with bodies of their own to the macro that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! each_hook { ($($then:tt)*) => { $($then)*! {
    syscall "": fn(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize)
        -> c_long;
    pthread_create "": fn(thread: *mut pthread_t, attr: *const pthread_attr_t, start: Start,
        argument: *mut c_void) -> c_int;
    pthread_join "": fn(thread: pthread_t, value: *mut *mut c_void) -> c_int;
    pthread_timedjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, limit: *const timespec)
        -> c_int;
    pthread_clockjoin_np "": fn(thread: pthread_t, value: *mut *mut c_void, clock: c_int,
        limit: *const timespec) -> c_int;
    pthread_mutex_lock "": fn(m: *mut pthread_mutex_t) -> c_int;
    pthread_mutex_timedlock "": fn(m: *mut pthread_mutex_t, limit: *const timespec) -> c_int;
    pthread_mutex_clocklock "": fn(m: *mut pthread_mutex_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_mutex_unlock "": fn(m: *mut pthread_mutex_t) -> c_int;
    pthread_cond_wait "GLIBC_2.3.2": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t) -> c_int;
    pthread_cond_timedwait "GLIBC_2.3.2": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t,
        limit: *const timespec) -> c_int;
    pthread_cond_clockwait "": fn(c: *mut pthread_cond_t, m: *mut pthread_mutex_t,
        clock: clockid_t, limit: *const timespec) -> c_int;
    pthread_cond_signal "GLIBC_2.3.2": fn(c: *mut pthread_cond_t) -> c_int;
    pthread_cond_broadcast "GLIBC_2.3.2": fn(c: *mut pthread_cond_t) -> c_int;
    pthread_rwlock_rdlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    pthread_rwlock_wrlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    pthread_rwlock_timedrdlock "": fn(lock: *mut pthread_rwlock_t, limit: *const timespec)
        -> c_int;
    pthread_rwlock_timedwrlock "": fn(lock: *mut pthread_rwlock_t, limit: *const timespec)
        -> c_int;
    pthread_rwlock_clockrdlock "": fn(lock: *mut pthread_rwlock_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_rwlock_clockwrlock "": fn(lock: *mut pthread_rwlock_t, clock: clockid_t,
        limit: *const timespec) -> c_int;
    pthread_rwlock_unlock "": fn(lock: *mut pthread_rwlock_t) -> c_int;
    sem_wait "": fn(sem: *mut sem_t) -> c_int;
    sem_timedwait "": fn(sem: *mut sem_t, limit: *const timespec) -> c_int;
    sem_clockwait "": fn(sem: *mut sem_t, clock: clockid_t, limit: *const timespec) -> c_int;
    sem_post "": fn(sem: *mut sem_t) -> c_int;
    pthread_barrier_wait "": fn(barrier: *mut pthread_barrier_t) -> c_int;
    pthread_spin_lock "": fn(lock: *mut pthread_spinlock_t) -> c_int;
    mtx_lock "": fn(mutex: *mut pthread_mutex_t) -> c_int;
    mtx_timedlock "": fn(mutex: *mut pthread_mutex_t, limit: *const timespec) -> c_int;
    mtx_unlock "": fn(mutex: *mut pthread_mutex_t) -> c_int;
    cnd_wait "": fn(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int;
    cnd_timedwait "": fn(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t,
        limit: *const timespec) -> c_int;
    cnd_signal "": fn(cond: *mut pthread_cond_t) -> c_int;
    cnd_broadcast "": fn(cond: *mut pthread_cond_t) -> c_int;
    thrd_create "": fn(thread: *mut pthread_t, start: Start11, argument: *mut c_void) -> c_int;
    thrd_join "": fn(thread: pthread_t, value: *mut c_int) -> c_int;
    clock_nanosleep "": fn(clock: clockid_t, flags: c_int, time: *const timespec,
        left: *mut timespec) -> c_int;
    sleep "": fn(seconds: c_uint) -> c_uint;
    sigwait "": fn(set: *const sigset_t, signal: *mut c_int) -> c_int;
    msync "": fn(at: *mut c_void, n: size_t, flags: c_int) -> c_int;
    getaddrinfo "": fn(node: *const c_char, service: *const c_char, hints: *const addrinfo,
        found: *mut *mut addrinfo) -> c_int;
    open "": fn(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    open64 "": fn(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat "": fn(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat64 "": fn(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    creat "": fn(path: *const c_char, mode: mode_t) -> c_int;
    creat64 "": fn(path: *const c_char, mode: mode_t) -> c_int;
    __open_2 "": fn(path: *const c_char, flags: c_int) -> c_int;
    __open64_2 "": fn(path: *const c_char, flags: c_int) -> c_int;
    __openat_2 "": fn(at: c_int, path: *const c_char, flags: c_int) -> c_int;
    __openat64_2 "": fn(at: c_int, path: *const c_char, flags: c_int) -> c_int;
    socket "": fn(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    eventfd "": fn(value: c_uint, flags: c_int) -> c_int;
    timerfd_create "": fn(clock: c_int, flags: c_int) -> c_int;
    epoll_create "": fn(size: c_int) -> c_int;
    epoll_create1 "": fn(flags: c_int) -> c_int;
    epoll_ctl "": fn(poll: c_int, change: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    dup "": fn(fd: c_int) -> c_int;
    dup2 "": fn(from: c_int, to: c_int) -> c_int;
    dup3 "": fn(from: c_int, to: c_int, flags: c_int) -> c_int;
    pipe "": fn(fds: *mut c_int) -> c_int;
    pipe2 "": fn(fds: *mut c_int, flags: c_int) -> c_int;
    socketpair "": fn(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int;
    accept "": fn(fd: c_int, from: *mut sockaddr, len: *mut socklen_t) -> c_int;
    accept4 "": fn(fd: c_int, from: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;
    close "": fn(fd: c_int) -> c_int;
    close_range "": fn(from: c_uint, to: c_uint, flags: c_int) -> c_int;
    closefrom "": fn(from: c_int) -> ();
    fcntl "": fn(fd: c_int, command: c_int, argument: usize) -> c_int;
    fcntl64 "": fn(fd: c_int, command: c_int, argument: usize) -> c_int;
    dlclose "": fn(handle: *mut c_void) -> c_int;
    prctl "": fn(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int;
    fork "": fn() -> pid_t;
    execve "": fn(path: *const c_char, argv: Words, envp: Words) -> c_int;
    execv "": fn(path: *const c_char, argv: Words) -> c_int;
    execvp "": fn(name: *const c_char, argv: Words) -> c_int;
    execvpe "": fn(name: *const c_char, argv: Words, envp: Words) -> c_int;
    fexecve "": fn(fd: c_int, argv: Words, envp: Words) -> c_int;
    posix_spawn "GLIBC_2.15": fn(child: *mut pid_t, path: *const c_char,
        actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t,
        argv: Words, envp: Words) -> c_int;
    posix_spawnp "GLIBC_2.15": fn(child: *mut pid_t, name: *const c_char,
        actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t,
        argv: Words, envp: Words) -> c_int;
    system "": fn(command: *const c_char) -> c_int;
    popen "": fn(command: *const c_char, mode: *const c_char) -> *mut c_void;
    _exit "": fn(status: c_int) -> !;
    _Exit "": fn(status: c_int) -> !;
} } }

/// Hands the table of calls that are recorded alike to the macro that is named: class, call of the
/// trace, what is kept, and the object.
#[doc(hidden)]
#[macro_export]
macro_rules! each_call { ($($then:tt)*) => { $($then)*! {
    read: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t) -> ssize_t;
    pread: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, at: off_t) -> ssize_t;
    pread64: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, at: off_t) -> ssize_t;
    readv: IO Read moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int) -> ssize_t;
    preadv: IO Read moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t) -> ssize_t;
    preadv64: IO Read moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t) -> ssize_t;
    preadv2: IO Read moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t,
        flags: c_int) -> ssize_t;
    preadv64v2: IO Read moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t,
        flags: c_int) -> ssize_t;
    __read_chk: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, room: size_t)
        -> ssize_t;
    __pread_chk: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, at: off_t,
        room: size_t) -> ssize_t;
    __pread64_chk: IO Read moves(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, at: off_t,
        room: size_t) -> ssize_t;
    write: IO Write writes(fd(f)) fn(f: c_int, from: *const c_void, n: size_t) -> ssize_t;
    pwrite: IO Write moves(fd(f)) fn(f: c_int, from: *const c_void, n: size_t, at: off_t)
        -> ssize_t;
    pwrite64: IO Write moves(fd(f)) fn(f: c_int, from: *const c_void, n: size_t, at: off_t)
        -> ssize_t;
    writev: IO Write writes(fd(f)) fn(f: c_int, v: *const iovec, n: c_int) -> ssize_t;
    pwritev: IO Write moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t) -> ssize_t;
    pwritev64: IO Write moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t)
        -> ssize_t;
    pwritev2: IO Write moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t,
        flags: c_int) -> ssize_t;
    pwritev64v2: IO Write moves(fd(f)) fn(f: c_int, v: *const iovec, n: c_int, at: off_t,
        flags: c_int) -> ssize_t;
    eventfd_read: IO Read moves(fd(f)) fn(f: c_int, value: *mut u64) -> c_int;
    sendfile: IO Copy writes(fd(f)) fn(f: c_int, from: c_int, at: *mut off_t, n: size_t)
        -> ssize_t;
    sendfile64: IO Copy writes(fd(f)) fn(f: c_int, from: c_int, at: *mut off_t, n: size_t)
        -> ssize_t;
    splice: IO Copy writes(fd(to)) fn(from: c_int, at: *mut off_t, to: c_int, to_at: *mut off_t,
        n: size_t, flags: c_uint) -> ssize_t;
    tee: IO Copy writes(fd(to)) fn(from: c_int, to: c_int, n: size_t, flags: c_uint) -> ssize_t;
    copy_file_range: IO Copy short(fd(to)) fn(from: c_int, at: *mut off_t, to: c_int,
        to_at: *mut off_t, n: size_t, flags: c_uint) -> ssize_t;
    fsync: IO Sync short(fd(f)) fn(f: c_int) -> c_int;
    fdatasync: IO Sync short(fd(f)) fn(f: c_int) -> c_int;
    syncfs: IO Sync short(fd(f)) fn(f: c_int) -> c_int;
    sync_file_range: IO Sync short(fd(f)) fn(f: c_int, at: off_t, n: off_t, flags: c_uint)
        -> c_int;
    unlink: IO Remove short(0) fn(path: *const c_char) -> c_int;
    unlinkat: IO Remove short(0) fn(at: c_int, path: *const c_char, flags: c_int) -> c_int;
    rmdir: IO Remove short(0) fn(path: *const c_char) -> c_int;
    rename: IO Rename short(0) fn(from: *const c_char, to: *const c_char) -> c_int;
    renameat: IO Rename short(0) fn(from_at: c_int, from: *const c_char, to_at: c_int,
        to: *const c_char) -> c_int;
    renameat2: IO Rename short(0) fn(from_at: c_int, from: *const c_char, to_at: c_int,
        to: *const c_char, flags: c_uint) -> c_int;
    mkdir: IO MakeFolder short(0) fn(path: *const c_char, mode: mode_t) -> c_int;
    mkdirat: IO MakeFolder short(0) fn(at: c_int, path: *const c_char, mode: mode_t) -> c_int;
    ftruncate: IO Resize short(fd(f)) fn(f: c_int, n: off_t) -> c_int;
    ftruncate64: IO Resize short(fd(f)) fn(f: c_int, n: off_t) -> c_int;
    fallocate: IO Resize short(fd(f)) fn(f: c_int, mode: c_int, at: off_t, n: off_t) -> c_int;
    fallocate64: IO Resize short(fd(f)) fn(f: c_int, mode: c_int, at: off_t, n: off_t) -> c_int;
    flock: IO FileLock short(fd(f)) fn(f: c_int, operation: c_int) -> c_int;
    lockf: IO FileLock short(fd(f)) fn(f: c_int, command: c_int, n: off_t) -> c_int;
    lockf64: IO FileLock short(fd(f)) fn(f: c_int, command: c_int, n: off_t) -> c_int;
    connect: NET Connect short(fd(f)) fn(f: c_int, to: *const sockaddr, len: socklen_t) -> c_int;
    recv: NET Receive short(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, flags: c_int)
        -> ssize_t;
    recvfrom: NET Receive short(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, flags: c_int,
        from: *mut sockaddr, len: *mut socklen_t) -> ssize_t;
    recvmsg: NET Receive short(fd(f)) fn(f: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    recvmmsg: NET Receive short(fd(f)) fn(f: c_int, messages: *mut mmsghdr, n: c_uint,
        flags: c_int, limit: *mut timespec) -> c_int;
    __recv_chk: NET Receive short(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t, room: size_t,
        flags: c_int) -> ssize_t;
    __recvfrom_chk: NET Receive short(fd(f)) fn(f: c_int, to: *mut c_void, n: size_t,
        room: size_t, flags: c_int, from: *mut sockaddr, len: *mut socklen_t) -> ssize_t;
    send: NET Send writes(fd(f)) fn(f: c_int, from: *const c_void, n: size_t, flags: c_int)
        -> ssize_t;
    sendto: NET Send writes(fd(f)) fn(f: c_int, from: *const c_void, n: size_t, flags: c_int,
        to: *const sockaddr, len: socklen_t) -> ssize_t;
    sendmsg: NET Send writes(fd(f)) fn(f: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
    sendmmsg: NET Send writes(fd(f)) fn(f: c_int, messages: *mut mmsghdr, n: c_uint, flags: c_int)
        -> c_int;
    poll: NET Poll polls(Polled::List(fds, n)) fn(fds: *mut pollfd, n: nfds_t, limit: c_int)
        -> c_int;
    ppoll: NET Poll polls(Polled::List(fds, n)) fn(fds: *mut pollfd, n: nfds_t,
        limit: *const timespec, mask: *const sigset_t) -> c_int;
    __poll_chk: NET Poll polls(Polled::List(fds, n)) fn(fds: *mut pollfd, n: nfds_t, limit: c_int,
        room: size_t) -> c_int;
    __ppoll_chk: NET Poll polls(Polled::List(fds, n)) fn(fds: *mut pollfd, n: nfds_t,
        limit: *const timespec, mask: *const sigset_t, room: size_t) -> c_int;
    select: NET Select polls(Polled::Set(r, n)) fn(n: c_int, r: *mut fd_set, w: *mut fd_set,
        e: *mut fd_set, limit: *mut timeval) -> c_int;
    pselect: NET Select polls(Polled::Set(r, n)) fn(n: c_int, r: *mut fd_set, w: *mut fd_set,
        e: *mut fd_set, limit: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_wait: NET EpollWait short(fd(f)) fn(f: c_int, events: *mut epoll_event, n: c_int,
        limit: c_int) -> c_int;
    epoll_pwait: NET EpollWait short(fd(f)) fn(f: c_int, events: *mut epoll_event, n: c_int,
        limit: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2: NET EpollWait short(fd(f)) fn(f: c_int, events: *mut epoll_event, n: c_int,
        limit: *const timespec, mask: *const sigset_t) -> c_int;
    nanosleep: SLEEP Sleep long(nanos(time)) fn(time: *const timespec, left: *mut timespec)
        -> c_int;
    usleep: SLEEP Sleep long(u64::from(time) * 1_000) fn(time: c_uint) -> c_int;
    thrd_sleep: SLEEP Sleep long(nanos(time)) fn(time: *const timespec, left: *mut timespec)
        -> c_int;
    sched_yield: SCHED Yield long(0) fn() -> c_int;
    pause: PROCESS WaitSignal long(0) fn() -> c_int;
    sigsuspend: PROCESS WaitSignal long(0) fn(mask: *const sigset_t) -> c_int;
    sigwaitinfo: PROCESS WaitSignal short(0) fn(set: *const sigset_t, info: *mut siginfo_t)
        -> c_int;
    sigtimedwait: PROCESS WaitSignal short(0) fn(set: *const sigset_t, info: *mut siginfo_t,
        limit: *const timespec) -> c_int;
    wait: PROCESS WaitProcess short(0) fn(status: *mut c_int) -> pid_t;
    waitpid: PROCESS WaitProcess short(process(pid)) fn(pid: pid_t, status: *mut c_int,
        options: c_int) -> pid_t;
    wait3: PROCESS WaitProcess short(0) fn(status: *mut c_int, options: c_int,
        usage: *mut rusage) -> pid_t;
    wait4: PROCESS WaitProcess short(process(pid)) fn(pid: pid_t, status: *mut c_int,
        options: c_int, usage: *mut rusage) -> pid_t;
    waitid: PROCESS WaitProcess short(0) fn(kind: idtype_t, id: id_t, info: *mut siginfo_t,
        options: c_int) -> c_int;
} } }

/// Hands the table of calls on streams of the C library to the macro that is named.
#[doc(hidden)]
#[macro_export]
macro_rules! each_stream { ($($then:tt)*) => { $($then)*! {
    fread "": fn(to: *mut c_void, size: size_t, n: size_t, stream: *mut FILE) -> size_t;
    fread_unlocked "": fn(to: *mut c_void, size: size_t, n: size_t, stream: *mut FILE) -> size_t;
    __fread_chk "": fn(to: *mut c_void, space: size_t, size: size_t, n: size_t,
        stream: *mut FILE) -> size_t;
    __fread_unlocked_chk "": fn(to: *mut c_void, space: size_t, size: size_t, n: size_t,
        stream: *mut FILE) -> size_t;
    fgetc "": fn(stream: *mut FILE) -> c_int;
    getc "": fn(stream: *mut FILE) -> c_int;
    _IO_getc "": fn(stream: *mut FILE) -> c_int;
    getchar "": fn() -> c_int;
    fgetc_unlocked "": fn(stream: *mut FILE) -> c_int;
    getc_unlocked "": fn(stream: *mut FILE) -> c_int;
    getchar_unlocked "": fn() -> c_int;
    __uflow "": fn(stream: *mut FILE) -> c_int;
    fgets "": fn(to: *mut c_char, n: c_int, stream: *mut FILE) -> *mut c_char;
    fgets_unlocked "": fn(to: *mut c_char, n: c_int, stream: *mut FILE) -> *mut c_char;
    __fgets_chk "": fn(to: *mut c_char, space: size_t, n: c_int, stream: *mut FILE)
        -> *mut c_char;
    __fgets_unlocked_chk "": fn(to: *mut c_char, space: size_t, n: c_int, stream: *mut FILE)
        -> *mut c_char;
    getline "": fn(to: *mut *mut c_char, n: *mut size_t, stream: *mut FILE) -> ssize_t;
    getdelim "": fn(to: *mut *mut c_char, n: *mut size_t, end: c_int, stream: *mut FILE)
        -> ssize_t;
    __getdelim "": fn(to: *mut *mut c_char, n: *mut size_t, end: c_int, stream: *mut FILE)
        -> ssize_t;
    vscanf "": fn(format: *const c_char, arguments: Arguments) -> c_int;
    vfscanf "": fn(stream: *mut FILE, format: *const c_char, arguments: Arguments) -> c_int;
    __isoc99_vscanf "": fn(format: *const c_char, arguments: Arguments) -> c_int;
    __isoc99_vfscanf "": fn(stream: *mut FILE, format: *const c_char, arguments: Arguments)
        -> c_int;
    __isoc23_vscanf "": fn(format: *const c_char, arguments: Arguments) -> c_int;
    __isoc23_vfscanf "": fn(stream: *mut FILE, format: *const c_char, arguments: Arguments)
        -> c_int;
    fwrite "": fn(from: *const c_void, size: size_t, n: size_t, stream: *mut FILE) -> size_t;
    fwrite_unlocked "": fn(from: *const c_void, size: size_t, n: size_t, stream: *mut FILE)
        -> size_t;
    fputc "": fn(byte: c_int, stream: *mut FILE) -> c_int;
    putc "": fn(byte: c_int, stream: *mut FILE) -> c_int;
    _IO_putc "": fn(byte: c_int, stream: *mut FILE) -> c_int;
    putchar "": fn(byte: c_int) -> c_int;
    fputc_unlocked "": fn(byte: c_int, stream: *mut FILE) -> c_int;
    putc_unlocked "": fn(byte: c_int, stream: *mut FILE) -> c_int;
    putchar_unlocked "": fn(byte: c_int) -> c_int;
    __overflow "": fn(stream: *mut FILE, byte: c_int) -> c_int;
    fputs "": fn(text: *const c_char, stream: *mut FILE) -> c_int;
    fputs_unlocked "": fn(text: *const c_char, stream: *mut FILE) -> c_int;
    puts "": fn(text: *const c_char) -> c_int;
    vprintf "": fn(format: *const c_char, arguments: Arguments) -> c_int;
    vfprintf "": fn(stream: *mut FILE, format: *const c_char, arguments: Arguments) -> c_int;
    vdprintf "": fn(fd: c_int, format: *const c_char, arguments: Arguments) -> c_int;
    __vprintf_chk "": fn(flag: c_int, format: *const c_char, arguments: Arguments) -> c_int;
    __vfprintf_chk "": fn(stream: *mut FILE, flag: c_int, format: *const c_char,
        arguments: Arguments) -> c_int;
    __vdprintf_chk "": fn(fd: c_int, flag: c_int, format: *const c_char, arguments: Arguments)
        -> c_int;
    fflush "": fn(stream: *mut FILE) -> c_int;
    fflush_unlocked "": fn(stream: *mut FILE) -> c_int;
    fclose "": fn(stream: *mut FILE) -> c_int;
    pclose "": fn(stream: *mut FILE) -> c_int;
    fseek "": fn(stream: *mut FILE, to: c_long, from: c_int) -> c_int;
    fseeko "": fn(stream: *mut FILE, to: off_t, from: c_int) -> c_int;
    fseeko64 "": fn(stream: *mut FILE, to: off_t, from: c_int) -> c_int;
    fsetpos "": fn(stream: *mut FILE, to: *const fpos_t) -> c_int;
    fsetpos64 "": fn(stream: *mut FILE, to: *const fpos_t) -> c_int;
    rewind "": fn(stream: *mut FILE) -> ();
    fopen "": fn(path: *const c_char, mode: *const c_char) -> *mut FILE;
    fopen64 "": fn(path: *const c_char, mode: *const c_char) -> *mut FILE;
    freopen "": fn(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE;
    freopen64 "": fn(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE;
    tmpfile "": fn() -> *mut FILE;
    tmpfile64 "": fn() -> *mut FILE;
} } }

/// The symbols: each calls its body.
#[doc(hidden)]
#[macro_export]
macro_rules! define_symbols {
    ($( $name:ident: $class:ident $op:ident $how:ident($object:expr)
        fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty;
    )*) => {
        $crate::define_symbols! { $( $name "": fn($($arg: $type),*) -> $result; )* }
    };
    ($( $name:ident $version:literal: fn($($arg:ident: $type:ty),* $(,)?) -> $result:ty; )*) => {
        const _: () = {
            #[allow(unused_imports)]
            use $crate::c::*;
            $(
                #[allow(missing_docs, non_snake_case)]
                #[allow(clippy::missing_safety_doc, clippy::too_many_arguments)]
                #[unsafe(no_mangle)]
                pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> $result {
                    // SAFETY: the caller keeps to libc's contract for this function.
                    unsafe { $crate::bodies::$name($($arg),*) }
                }
            )*
        };
    };
}

/// The symbols of the `execl` family. Their number of arguments is known from a null among them
/// only, so each puts what the caller left into one list for [`bodies`](crate::bodies): the
/// arguments in registers, and the place of those on the stack.
#[doc(hidden)]
#[macro_export]
macro_rules! define_variadics {
    ($( $name:ident $which:literal; )*) => { $(
        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            ::core::arch::naked_asm!(
                "push rbp",
                "mov rbp, rsp",
                "sub rsp, 48",
                "mov [rsp], rsi",
                "mov [rsp + 8], rdx",
                "mov [rsp + 16], rcx",
                "mov [rsp + 24], r8",
                "mov [rsp + 32], r9",
                "mov rsi, rsp",
                "lea rdx, [rbp + 16]",
                concat!("mov ecx, ", $which),
                "call {body}",
                "leave",
                "ret",
                body = sym $crate::bodies::execl_family,
            );
        }

        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            ::core::arch::naked_asm!(
                "stp x29, x30, [sp, #-16]!",
                "mov x29, sp",
                "sub sp, sp, #64",
                "stp x1, x2, [sp]",
                "stp x3, x4, [sp, #16]",
                "stp x5, x6, [sp, #32]",
                "str x7, [sp, #48]",
                "mov x1, sp",
                "add x2, x29, #16",
                concat!("mov x3, #", $which),
                "bl {body}",
                "mov sp, x29",
                "ldp x29, x30, [sp], #16",
                "ret",
                body = sym $crate::bodies::execl_family,
            );
        }
    )* };
}

/// The symbols of `printf`, `scanf` and their like: each puts what it was called with where a
/// `va_list` finds it, and calls the body of the function that takes one, as libc itself does. The
/// number is that of the arguments with names.
#[doc(hidden)]
#[macro_export]
macro_rules! define_formatted {
    ($( $name:ident $body:ident $named:literal $x86:literal $aarch64:literal; )*) => { $(
        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "x86_64")]
        #[allow(non_snake_case)]
        // SAFETY: all of it is the assembly below, and the name stands in for libc's on purpose.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            // Six registers, eight of vectors, then the list: counts, the stack, the registers.
            ::core::arch::naked_asm!(
                ".cfi_startproc",
                "push rbp",
                ".cfi_def_cfa_offset 16",
                ".cfi_offset rbp, -16",
                "mov rbp, rsp",
                ".cfi_def_cfa_register rbp",
                "sub rsp, 208",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "test al, al",
                "je 2f",
                "movaps [rsp + 48], xmm0",
                "movaps [rsp + 64], xmm1",
                "movaps [rsp + 80], xmm2",
                "movaps [rsp + 96], xmm3",
                "movaps [rsp + 112], xmm4",
                "movaps [rsp + 128], xmm5",
                "movaps [rsp + 144], xmm6",
                "movaps [rsp + 160], xmm7",
                "2:",
                concat!("mov dword ptr [rsp + 176], ", $named, " * 8"),
                "mov dword ptr [rsp + 180], 48",
                "lea rax, [rbp + 16]",
                "mov [rsp + 184], rax",
                "mov [rsp + 192], rsp",
                concat!("lea ", $x86, ", [rsp + 176]"),
                "call {body}",
                "leave",
                ".cfi_def_cfa rsp, 8",
                ".cfi_restore rbp",
                "ret",
                ".cfi_endproc",
                body = sym $crate::bodies::$body,
            );
        }

        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "aarch64")]
        #[allow(non_snake_case)]
        // SAFETY: all of it is the assembly below, and the name stands in for libc's on purpose.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            // Eight registers, eight of vectors, then the list: the stack, the ends of both, and
            // where in them it begins, counted from there.
            ::core::arch::naked_asm!(
                ".cfi_startproc",
                "stp x29, x30, [sp, #-256]!",
                ".cfi_def_cfa_offset 256",
                ".cfi_offset x29, -256",
                ".cfi_offset x30, -248",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "stp x6, x7, [sp, #64]",
                "stp q0, q1, [sp, #80]",
                "stp q2, q3, [sp, #112]",
                "stp q4, q5, [sp, #144]",
                "stp q6, q7, [sp, #176]",
                "add x9, sp, #256",
                "str x9, [sp, #208]",
                "add x9, sp, #80",
                "str x9, [sp, #216]",
                "add x9, sp, #208",
                "str x9, [sp, #224]",
                concat!("mov w9, #-(64 - 8 * ", $named, ")"),
                "str w9, [sp, #232]",
                "mov w9, #-128",
                "str w9, [sp, #236]",
                concat!("add ", $aarch64, ", sp, #208"),
                "bl {body}",
                "ldp x29, x30, [sp], #256",
                ".cfi_def_cfa_offset 0",
                ".cfi_restore x29",
                ".cfi_restore x30",
                "ret",
                ".cfi_endproc",
                body = sym $crate::bodies::$body,
            );
        }
    )* };
    ($( $name:ident $body:ident $named:tt; )*) => { $(
        $crate::define_formatted! { @ $name $body $named }
    )* };
    (@ $name:ident $body:ident 1) => {
        $crate::define_formatted! { $name $body "1" "rsi" "x1"; }
    };
    (@ $name:ident $body:ident 2) => {
        $crate::define_formatted! { $name $body "2" "rdx" "x2"; }
    };
    (@ $name:ident $body:ident 3) => {
        $crate::define_formatted! { $name $body "3" "rcx" "x3"; }
    };
}

/// The symbols of functions that look at who calls them: each jumps on, with all arguments, to
/// where `before` says, and leaves no frame.
#[doc(hidden)]
#[macro_export]
macro_rules! define_jumps {
    ($( $name:ident $which:literal; )*) => { $(
        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            ::core::arch::naked_asm!(
                "push rdi",
                "push rsi",
                "push rdx",
                concat!("mov edi, ", $which),
                "call {before}",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "jmp rax",
                before = sym $crate::bodies::before,
            );
        }

        /// libc's function of this name.
        ///
        /// # Safety
        /// - As libc's.
        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name() {
            ::core::arch::naked_asm!(
                "stp x29, x30, [sp, #-48]!",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "str x2, [sp, #32]",
                concat!("mov x0, #", $which),
                "bl {before}",
                "mov x16, x0",
                "ldr x2, [sp, #32]",
                "ldp x0, x1, [sp, #16]",
                "ldp x29, x30, [sp], #48",
                "br x16",
                before = sym $crate::bodies::before,
            );
        }
    )* };
}
