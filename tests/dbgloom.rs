#![cfg(loom)]
use trace::sync::Arc; 
use trace::sync::AtomicU32;
use trace::sync::Ordering::*;
fn count(name:&str, f: impl Fn()+Send+Sync+'static){
    let n=std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)); let c=n.clone();
    let mut b=loom::model::Builder::new(); b.preemption_bound=Some(3);
    b.check(move||{c.fetch_add(1,std::sync::atomic::Ordering::Relaxed); f()});
    println!("{name} {n:?}");
}
#[test] fn x(){
    count("rmw vs load", ||{ let a=Arc::new(AtomicU32::new(0)); let b=a.clone();
        let t=loom::thread::spawn(move|| {let _=b.compare_exchange(0,1,Release,Relaxed);});
        let _=a.load(Acquire); t.join().unwrap(); });
    count("load+rmw vs load", ||{ let a=Arc::new(AtomicU32::new(0)); let b=a.clone();
        let t=loom::thread::spawn(move|| {let _=b.load(Acquire); let _=b.compare_exchange(0,1,Release,Relaxed);});
        let _=a.load(Acquire); t.join().unwrap(); });
    count("load+rmw vs load, other order", ||{ let a=Arc::new(AtomicU32::new(0)); let b=a.clone();
        let t=loom::thread::spawn(move|| {let _=b.load(Acquire);});
        let _=a.load(Acquire);  let _=a.compare_exchange(0,1,Release,Relaxed); t.join().unwrap(); });
    count("store vs load", ||{ let a=Arc::new(AtomicU32::new(0)); let b=a.clone();
        let t=loom::thread::spawn(move|| {b.store(1,Release);});
        let _=a.load(Acquire); t.join().unwrap(); });
}
