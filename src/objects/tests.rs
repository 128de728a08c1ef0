use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn open(folder: &FsPath) -> Objects {
    open_with_floor(folder, 0)
}

fn open_with_floor(folder: &FsPath, free_bytes_min: u64) -> Objects {
    let settings = Settings {
        location: StorageLocation::Folder(folder.join("objects")),
        bounds: AttachmentLimits::default(),
        links: LinkSigner::new("http://a.example", &[Secret::new("secret")], DAY),
        age_max: 30 * DAY,
        free_bytes_min,
    };
    Objects::open(settings).unwrap()
}

async fn text(objects: &Objects, id: ObjectId, range: Range<u64>) -> Option<String> {
    let mut opened = objects.read(id, range).await.unwrap()?;
    let mut text = Vec::new();
    while let Some(bytes) = opened.stream.next().await {
        text.extend_from_slice(&bytes.unwrap());
    }
    Some(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn stored_files_are_read_whole_and_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let objects = open(folder.path());
    let id = ObjectId::of(b"0123456789");
    assert_eq!(objects.size(id).await.unwrap(), None);
    for _ in 0..2 {
        objects
            .put(id, Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
    }
    let objects = open(folder.path());
    assert_eq!(objects.size(id).await.unwrap(), Some(10));
    assert_eq!(
        text(&objects, id, 0..10).await.as_deref(),
        Some("0123456789")
    );
    assert_eq!(text(&objects, id, 3..5).await.as_deref(), Some("34"));
    assert_eq!(text(&objects, ObjectId::of(b"x"), 0..1).await, None);
    let empty = ObjectId::of(b"");
    objects.put(empty, Bytes::new()).await.unwrap();
    assert_eq!(text(&objects, empty, 0..0).await.as_deref(), Some(""));
    let left = fs::read_dir(folder.path().join("objects/new")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn the_floor_of_free_space_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (id, bytes) = (ObjectId::of(b"file"), Bytes::from_static(b"file"));
    let full = open_with_floor(folder.path(), u64::MAX);
    let refused = full.put(id, bytes.clone()).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Full { .. }), "{refused}");
    assert_eq!(full.size(id).await.unwrap(), None);
    open(folder.path()).put(id, bytes.clone()).await.unwrap();
    // A file that is stored already takes no more space.
    full.put(id, bytes).await.unwrap();
}

#[tokio::test]
async fn an_incomplete_file_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let objects = open(folder.path());
    let id = ObjectId::of(b"whole");
    fs::write(folder.path().join("objects").join(id.to_string()), "wh").unwrap();
    objects.put(id, Bytes::from_static(b"whole")).await.unwrap();
    assert_eq!(text(&objects, id, 0..5).await.as_deref(), Some("whole"));
}

#[tokio::test]
async fn expired_files_are_removed_and_renewed_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let objects = open(folder.path());
    let (old, kept) = (ObjectId::of(b"old"), ObjectId::of(b"kept"));
    objects.put(old, Bytes::from_static(b"old")).await.unwrap();
    objects
        .put(kept, Bytes::from_static(b"kept"))
        .await
        .unwrap();
    let files = folder.path().join("objects");
    let foreign = files.join("notes.txt");
    fs::write(&foreign, "not ours").unwrap();
    let left = files.join("new").join("left");
    fs::write(&left, "half").unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + DAY;
    for path in [
        &files.join(old.to_string()),
        &files.join(kept.to_string()),
        &foreign,
        &left,
    ] {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    objects
        .put(kept, Bytes::from_static(b"kept"))
        .await
        .unwrap();
    assert_eq!(objects.sweep(clock::now()).await.unwrap(), 2);
    assert_eq!(objects.size(old).await.unwrap(), None);
    assert_eq!(objects.size(kept).await.unwrap(), Some(4));
    assert!(foreign.exists() && !left.exists());
}
