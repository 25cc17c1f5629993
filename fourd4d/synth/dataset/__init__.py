"""From clips to files: samples, images, shards, TFDS."""
