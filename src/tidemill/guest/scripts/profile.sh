# Linked into the image's /etc/profile.d: a login over ssh has the image's PATH, which
# /etc/profile has just replaced by the distribution's.
if [ -n "${TIDEMILL_PATH-}" ]; then
    case ":$PATH:" in
    *":$TIDEMILL_PATH:"*) ;;
    *) PATH=$TIDEMILL_PATH:$PATH ;;
    esac
    case ":$PATH:" in
    *":${TIDEMILL_APPLETS#:}:"*) ;;
    *) PATH=$PATH$TIDEMILL_APPLETS ;;
    esac
    export PATH
fi
